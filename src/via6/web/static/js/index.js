// The network's page: picture, tables and timeline follow the server's events.

import { ask } from "./api.js";
import { at, brief, change, count, h, nodeLink, prepend, refusal, soon } from "./dom.js";
import { Moves } from "./moves.js";
import { Path } from "./path.js";
import { Problems } from "./problems.js";
import { listen } from "./stream.js";
import { summarise, unfold } from "./summary.js";
import { fill, holds, refresh, setFindings, setState } from "./tables.js";

let network = null;
let form = "";
let picture = null;
const moves = new Moves(at("timeline"));

const names = () => new Map((network?.nodes ?? []).map((one) => [one.name, one.id]));
const nodeOf = (id) => network?.nodes.find((one) => one.id === id);
const linkOf = (id) => network?.links.find((one) => one.id === id);
const nameOf = (id) => brief(nodeOf(id)?.name ?? id, 40);
const linkName = (link) => `${nameOf(link.a.node)} ${link.a.dev} to ${nameOf(link.b.node)} ${link.b.dev}`;

function tell(kind, text, good = null) {
  prepend(at("timeline"), change({ time: Date.now() / 1000, kind, text, good }));
}

// The one node that a host's links lead to; null of others.
function hangsOn(id) {
  if (nodeOf(id)?.kind !== "host") return null;
  const ends = network.links.filter(({ a, b }) => a.node === id || b.node === id);
  const others = new Set(ends.map(({ a, b }) => (a.node === id ? b.node : a.node)));
  return others.size === 1 ? [...others][0] : null;
}

const path = new Path({
  names,
  hangsOn,
  draw(trace, good, fail) {
    picture?.drawPath(trace, good, fail);
    document.body.classList.add("has-path");
  },
  undraw() {
    picture?.clearPath();
    document.body.classList.remove("has-path");
  },
  moved: (text, good) => tell("path", text, good),
});
// A looking glass has none.
const problems =
  at("verify") &&
  new Problems({
    show(from, to) {
      at("from").value = from;
      at("to").value = to;
      path.start();
      at("path-title").scrollIntoView({ block: "start" });
    },
  });

// --- the network and what changes in it ---

function take(next) {
  if (!problems) for (const one of next.nodes) one.findings = null;
  const moved = network !== null && network.version !== next.version; // the events begin with what is known already
  network = next;
  const ids = JSON.stringify([
    next.nodes.map((one) => [one.id, one.name, one.islands]),
    next.links.map((one) => one.id),
    next.islands,
  ]);
  picture?.show(next);
  at("picture").setAttribute("aria-label", label());
  summarise(next);
  if (ids !== form) {
    const first = form === "";
    form = ids;
    if (first) suggest();
    else tell("network", "nodes or links came or went");
    if (first && holds(next))
      refresh(next); // the server has made the tables
    else fill(next);
    path.load();
  } else {
    refresh(next);
  }
  problems?.refresh(next);
  if (moved) path.again();
}

function label() {
  const down = network.links.filter((one) => one.state === "down").length;
  return (
    `Picture of the network: ${count(network.nodes.length, "node")}, ` +
    `${count(network.links.length, "link")}, ${down} down. ` +
    "Arrow keys go from node to node, Enter opens the node's page, F and T put it into From and To, " +
    "plus and minus zoom, 0 shows all."
  );
}

// A newcomer has something to press: the first host, and the last.
function suggest() {
  if (at("from").value || at("to").value) return;
  const hosts = network.nodes.filter((one) => one.kind === "host");
  const ends = hosts.length > 1 ? hosts : network.nodes.filter((one) => one.islands.length);
  if (ends.length < 2) return;
  at("from").value = ends[0].name;
  at("to").value = ends.at(-1).name;
}

const handlers = {
  network: take,
  link({ id, state }) {
    const link = linkOf(id);
    if (!link || link.state === state) return;
    link.state = state;
    picture?.setLink(id, state);
    setState("links", id, state);
    problems?.refresh(network);
    aboutAgain();
    tell("link", `${linkName(link)} is ${state}`, state === "up" ? true : state === "down" ? false : null);
    problems?.stale();
    path.again();
    at("picture").setAttribute("aria-label", label());
    summarise(network);
  },
  node({ id, state }) {
    const node = nodeOf(id);
    if (!node || node.state === state) return;
    node.state = state;
    picture?.paintNode(node);
    setState("nodes", id, state);
    problems?.refresh(network);
    aboutAgain();
    summarise(network);
    tell("node", `${nameOf(id)} is ${state}`, state === "up" ? true : state === "down" ? false : null);
    problems?.stale();
    path.again();
  },
  route({ node, prefix, was, now, count: number }) {
    picture?.pulse(node);
    const what =
      number === undefined
        ? `${prefix} was ${was ?? "not there"}, now ${now ?? "gone"}`
        : `${count(number, "route")} moved`;
    moves.tell(nameOf(node), number ?? 1, what, now === null);
    problems?.stale();
    path.again();
  },
  findings({ node: id, error, warning }) {
    const node = nodeOf(id);
    if (!node || !problems) return;
    const first = node.findings === null; // the doctor's first look is no change
    node.findings = { error, warning };
    picture?.paintNode(node);
    setFindings(id, node.findings);
    summarise(network);
    problems?.refresh(network);
    const numbers = `${count(error, "error")}, ${count(warning, "warning")}`;
    if (!first)
      tell(
        "findings",
        `${nameOf(id)}: ${error || warning ? numbers : "nothing is wrong any more"}`,
        !error && !warning,
      );
  },
};

// --- the picture ---

function about(what) {
  const place = at("about");
  if (!what) return place.replaceChildren();
  if (what.kind === "node") {
    const node = nodeOf(what.id);
    if (!node) return place.replaceChildren();
    const put = (field, text) =>
      h("button", { type: "button", class: "tiny", onclick: () => path.set(field, node.name) }, text);
    const words = node.software === "link" ? ["shared link", node.state] : [node.kind, node.state, node.software];
    return place.replaceChildren(
      nodeLink(node.id, brief(node.name, 80)),
      ` ${words.filter(Boolean).join(", ")} `,
      ...node.islands.slice(0, 3).flatMap((one) => [h("code", {}, one), " "]),
      put("from", "From here"),
      " ",
      put("to", "To here"),
    );
  }
  if (what.kind === "island") {
    const island = network.islands.find((one) => one.id === what.id);
    return place.replaceChildren(
      h("code", {}, island.prefix),
      `: IPv4 island of ${island.nodes.map(nameOf).join(", ")}`,
    );
  }
  const lines = what.ids.slice(0, 4).map((id) => {
    const link = linkOf(id);
    const cost = link.cost === null ? "" : `, cost ${link.cost}`;
    const deed = link.state === "down" ? "mend" : "cut"; // where the server lets it: see deeds.js
    const may = [...(at("deeds-link")?.options ?? [])].some((one) => one.value === id);
    const change = () => {
      at("deeds-link").value = id;
      at(`deeds-${deed}`).click();
    };
    const text = `${linkName(link)}: ${link.state}, ${link.ipv4 ? "with IPv4 addresses" : "IPv6 only"}${cost} `;
    return h(
      "span",
      { class: "line" },
      text,
      link.state === "down"
        ? null
        : h("button", { type: "button", class: "tiny", onclick: () => path.choose(id) }, "What if it fails?"),
      may ? [" ", h("button", { type: "button", class: "tiny", onclick: change }, deed === "cut" ? "Cut it" : "Mend it")] : null,
    );
  });
  return place.replaceChildren(...lines);
}

// What is said of what is chosen, after it has changed; the keyboard stays where it is.
function aboutAgain() {
  const chosen = picture?.cy.$(":selected")[0];
  if (!chosen) return;
  const buttons = () => [...at("about").querySelectorAll("a, button")];
  const held = buttons().indexOf(document.activeElement);
  about(picture.described(chosen));
  if (held >= 0) buttons()[held]?.focus();
}

const open = (id) => {
  location.href = `/nodes/${encodeURIComponent(id)}`;
};

function keys(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const chosen = picture.cy
    .$("node:selected")
    .filter((one) => one.data("node"))[0]
    ?.data("node");
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const work = {
    "+": () => picture.zoom(1.25),
    "=": () => picture.zoom(1.25),
    "-": () => picture.zoom(0.8),
    0: () => picture.fit(),
    Enter: () => chosen && open(chosen),
    f: () => chosen && path.set("from", nodeOf(chosen).name),
    t: () => chosen && path.set("to", nodeOf(chosen).name),
    Escape: () => picture.cy.$(":selected").unselect(),
  }[event.key];
  if (moves[event.key]) picture.step(...moves[event.key]);
  else if (work) work();
  else return;
  event.preventDefault();
}

const HINT = "Arrow keys go from node to node; Enter opens one, F and T put it into From and To; + and \u2212 zoom.";

const WHEEL = "With Ctrl the wheel zooms.";

async function draw() {
  const place = at("picture");
  if (place.dataset.vendor !== "yes") return;
  const { Picture } = await import("./picture.js");
  picture = new Picture(place, { chosen: about, opened: open });
  window.via6 = { picture }; // for the browser's console, and tests
  place.tabIndex = 0;
  place.setAttribute("role", "application");
  place.setAttribute("aria-roledescription", "picture of a network");
  place.addEventListener("keydown", keys);
  place.addEventListener("focus", () => {
    if (place.matches(":focus-visible") && !at("about").hasChildNodes()) at("about").append(HINT);
  });
  const unsay = (text) => at("about").textContent === text && at("about").replaceChildren();
  place.addEventListener("blur", () => unsay(HINT));
  const wheelRests = soon(() => unsay(WHEEL), 1500);
  place.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey || event.metaKey) return unsay(WHEEL);
      if (!at("about").hasChildNodes()) at("about").append(WHEEL);
      wheelRests();
    },
    { passive: true },
  );
  at("tools").hidden = false;
  at("zoom-in").addEventListener("click", () => picture.zoom(1.25));
  at("zoom-out").addEventListener("click", () => picture.zoom(0.8));
  at("zoom-fit").addEventListener("click", () => picture.fit());
  const find = soon(() => {
    const text = at("find").value.trim();
    const id =
      names().get(text) ??
      network.nodes.find((one) => text && one.name.toLowerCase().startsWith(text.toLowerCase()))?.id;
    if (id !== undefined) picture.choose(id);
    else at("about").replaceChildren(text ? "The name of no node begins so." : "");
  }, 150);
  at("find").addEventListener("input", find);
}

// A node's page leads here: to the node in the picture, or to the form with the node in it.
function chooseByAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("node");
  if (wanted && nodeOf(wanted)) picture?.choose(wanted);
  const query = new URLSearchParams(location.search);
  if (query.get("from") && !query.get("to")) at("to").focus();
}

async function begin() {
  const [answer] = await Promise.allSettled([ask("network"), draw()]);
  if (answer.status === "rejected") {
    at("answer").replaceChildren(refusal(answer.reason));
  } else {
    take(answer.value);
    chooseByAddress();
    if (new URLSearchParams(location.search).get("to")) path.start();
  }
  listen(handlers, answer.status === "rejected" || answer.value.live);
}

window.addEventListener("hashchange", unfold);
unfold();
begin();
