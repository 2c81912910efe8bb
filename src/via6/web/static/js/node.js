// A node's page: search while typing, and what changes.

import { ask, newest, nodePath, Refused } from "./api.js";
import { at, breaks, change, clock, h, nodeLink, prepend, refusal, soon, stateWord } from "./dom.js";
import { listen } from "./stream.js";

const LIMIT = 100;
const UNUSABLE = 65535;
const PROGRAMS = { 46: "via6" }; // what iproute2 has no name for
const id = at("node").dataset.id;
const routesOf = newest();
const query = new URLSearchParams(location.search);
let offset = Number(query.get("offset")) || 0;

for (const one of document.querySelectorAll("time[data-time]")) one.replaceWith(clock(Number(one.dataset.time)));

// --- routes ---

function nextHop(one) {
  return h(
    "span",
    { class: "next" },
    one.via ? ["via ", h("code", {}, one.via), " "] : null,
    one.dev ? h("span", { class: "dev" }, one.dev) : null,
  );
}

function routeRow(one, longest) {
  const cell = (label, ...children) => h("td", { "data-label": label }, ...children);
  const row = h(
    "tr",
    { class: longest && one.prefix === longest ? "chosen" : null },
    h(
      "th",
      { scope: "row" },
      h("code", {}, one.prefix),
      one.src ? h("span", { class: "note" }, ` src ${one.src}`) : null,
    ),
    cell("Next hop", one.next_hops.map(nextHop)),
    cell("Type", one.type),
    cell("Protocol", PROGRAMS[one.protocol] ?? `${one.protocol}`),
    cell("Metric", `${one.metric ?? ""}`),
    cell("Table", `${one.table}`),
  );
  row.cells[4].className = "number";
  return row;
}

function pager(answer) {
  const step = (text, to) =>
    h(
      "button",
      {
        type: "button",
        onclick: () => {
          offset = to;
          routes();
        },
      },
      text,
    );
  const last = answer.offset + answer.routes.length;
  if (!answer.total) return [];
  return [
    h("span", { id: "range" }, `${answer.offset + 1} to ${last} of ${answer.total}`),
    answer.offset > 0 ? step("Previous", Math.max(0, answer.offset - LIMIT)) : null,
    last < answer.total ? step("Next", last) : null,
  ].filter(Boolean);
}

async function routes() {
  const family = at("family").value;
  const match = at("match").value.trim();
  let answer;
  try {
    answer = await routesOf(`${nodePath(id)}/routes`, { family, match, offset: offset || "", limit: LIMIT });
  } catch (error) {
    at("route-error").replaceChildren(refusal(error instanceof Refused ? error : new Refused(String(error))));
    at("longest").replaceChildren();
    return;
  }
  if (!answer) return;
  at("route-error").replaceChildren();
  const none = h("tr", {}, h("td", { colspan: 6, class: "none" }, "No routes."));
  at("routes").tBodies[0].replaceChildren(
    ...(answer.routes.length ? answer.routes.map((one) => routeRow(one, answer.longest)) : [none]),
  );
  at("pager").replaceChildren(...pager(answer));
  const words = !match
    ? []
    : answer.longest
      ? [`The longest match for ${match} is `, h("code", {}, answer.longest), "."]
      : [`No route of this table has ${match}.`];
  at("longest").replaceChildren(...words);
  const kept = new URLSearchParams(
    Object.entries({ family: family === "4" ? "" : family, match, offset: offset || "" }).filter(([, value]) => value),
  );
  history.replaceState(null, "", kept.size ? `?${kept}` : location.pathname);
}

// Half an address is no mistake while it is being typed.
const whole = (text) =>
  text === "" || /^\d+\.\d+\.\d+\.\d+$/.test(text) || (text.includes(":") && !/[^:]:$/.test(text));
const typed = soon(() => {
  const text = at("match").value.trim();
  if (!whole(text)) return;
  offset = 0;
  if (text) at("family").value = text.includes(":") ? "6" : "4";
  routes();
}, 200);
at("match").addEventListener("input", typed);
at("family").addEventListener("change", () => {
  offset = 0;
  routes();
});
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  offset = 0;
  routes();
});

// --- what changes ---

// What another finding on this page is called; of one elsewhere its id.
const called = (id, list) => list.find((one) => one.id === id)?.title ?? id;

function findingItem(one, list) {
  const block = (text, name, label) => h("pre", { class: name, tabindex: 0, "aria-label": label }, text);
  return h(
    "li",
    { class: `finding ${one.severity}` },
    h("h3", {}, h("span", { class: "severity" }, one.severity), " ", one.title),
    one.breaks ? breaks(one) : null,
    one.evidence ? block(one.evidence, "evidence", "Evidence") : null,
    one.remedy ? [h("p", { class: "label" }, "Remedy"), block(one.remedy, "remedy", "Remedy")] : null,
    one.depends_on?.length ? h("p", { class: "note" }, `Follows from: ${one.depends_on.map((other) => called(other, list)).join("; ")}`) : null,
  );
}

async function findings() {
  if (!at("findings")) return; // a looking glass shows none
  const list = await ask(`${nodePath(id)}/findings`);
  at("findings").replaceChildren(
    list.length
      ? h("ul", { class: "findings" }, list.map((one) => findingItem(one, list)))
      : h("p", { class: "none" }, "The doctor finds nothing wrong here."),
  );
}

async function changes() {
  const list = await ask(`${nodePath(id)}/changes`, { limit: 50 });
  if (!list.length) return;
  at("timeline").replaceChildren();
  for (const one of list.toReversed()) prepend(at("timeline"), change(one));
}

async function interfaces() {
  const node = await ask(nodePath(id));
  const states = new Map(node.interfaces.map((one) => [one.name, one.state]));
  for (const row of at("interfaces").tBodies[0].rows) {
    const state = states.get(row.cells[0].textContent.trim());
    const shown = row.querySelector(".state");
    if (state && shown && shown.textContent !== state) shown.replaceWith(stateWord(state));
  }
  neighbours(node.neighbours);
}

// Who is at the other ends of an interface's links.
function peers(dev) {
  return links.flatMap(({ a, b }) =>
    [
      [a, b],
      [b, a],
    ]
      .filter(([here]) => here.node === id && here.dev === dev)
      .map(([, there]) => there.node),
  );
}

function neighbours(list) {
  const cell = (label, ...children) => h("td", { "data-label": label }, ...children);
  const row = (one) => {
    const others = peers(one.interface);
    const name = others.length === 1 ? [nodeLink(others[0], names.get(others[0]) ?? others[0]), " "] : null;
    const made = h(
      "tr",
      {},
      h("th", { scope: "row" }, name, h("code", {}, one.address)),
      cell("Interface", h("span", { class: "dev" }, one.interface ?? "")),
      cell("Cost", one.cost === UNUSABLE ? "unusable" : `${one.cost}`),
      cell("Hellos", h("code", {}, one.reach ?? "")),
      cell("Signed", one.signed ? "yes" : "no"),
    );
    made.cells[2].className = "number";
    return made;
  };
  const none = h("tr", {}, h("td", { colspan: 5, class: "none" }, "None known."));
  at("neighbours").tBodies[0].replaceChildren(...(list?.length ? list.map(row) : [none]));
}

const quietly = (work) => soon(() => work().catch(() => {}), 300, 1200);
const again = {
  routes: quietly(routes),
  findings: quietly(findings),
  changes: quietly(changes),
  interfaces: quietly(interfaces),
};
let links = [];
let names = new Map();

function setState(state) {
  if (at("state").textContent.trim() !== state) at("state").replaceChildren(stateWord(state));
}

ask("network")
  .then((network) => {
    const take = (next) => {
      links = next.links;
      names = new Map(next.nodes.map((one) => [one.id, one.name]));
    };
    take(network);
    const handlers = {
      network(next) {
        take(next);
        again.interfaces();
        const me = next.nodes.find((one) => one.id === id);
        if (me) setState(me.state);
      },
      link(event) {
        const link = links.find((one) => one.id === event.id);
        if (!link || ![link.a.node, link.b.node].includes(id)) return;
        for (const one of ["interfaces", "routes", "changes"]) again[one]();
      },
      node(event) {
        if (event.id === id) setState(event.state);
      },
      route(event) {
        if (event.node !== id) return;
        again.routes();
        again.changes();
      },
      findings(event) {
        if (event.node !== id) return;
        again.findings();
        again.changes();
      },
    };
    listen(handlers, network.live);
    if (at("findings")) again.findings(); // the doctor may not have looked when the page was made
  })
  .catch(() => {});
