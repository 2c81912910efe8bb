// The tables of the network's page: the same as the server made, kept up to date.

import { at, count, h, nodeLink, stateWord } from "./dom.js";

function rows(table) {
  return new Map([...at(table).tBodies[0].rows].map((row) => [row.dataset.id, row]));
}

function findings(found) {
  if (!found) return [];
  const { error = 0, warning = 0 } = found;
  if (!error && !warning) return ["none"];
  return [
    error ? h("b", { class: "error" }, count(error, "error")) : null,
    " ",
    warning ? h("b", { class: "warning" }, count(warning, "warning")) : null,
  ];
}

const cell = (label, name, ...children) => h("td", { "data-label": label, class: name || null }, ...children);

// A looking glass tells nothing of findings.
const glass = () => !at("verify");

function nodeRow(node) {
  const shared = node.software === "link";
  return h(
    "tr",
    { "data-id": node.id },
    h("th", { scope: "row" }, nodeLink(node.id, node.name)),
    cell("State", "is", stateWord(node.state)),
    cell("Kind", "", shared ? "shared link" : node.kind),
    cell("Software", "", shared ? "" : (node.software ?? "")),
    cell(
      "Islands",
      "",
      node.islands.map((one) => [h("code", {}, one), " "]),
    ),
    glass() ? null : cell("Findings", "found", findings(node.findings)),
  );
}

function linkRow(link, names) {
  const end = (one) => [
    h("bdi", { class: "bidi" }, names.get(one.node) ?? one.node),
    " ",
    h("span", { class: "dev" }, one.dev),
  ];
  return h(
    "tr",
    { "data-id": link.id },
    h("th", { scope: "row" }, end(link.a), " to ", end(link.b)),
    cell("State", "is", stateWord(link.state)),
    cell("Carries", "", link.ipv4 ? "IPv4 addresses" : "IPv6 only"),
    cell("Kind", "", link.kind ?? ""),
    cell("Cost", "number", `${link.cost ?? ""}`),
  );
}

function islandRow(island, names) {
  const nodes = island.nodes.map((id, n) => [n ? ", " : null, nodeLink(id, names.get(id) ?? id)]);
  return h("tr", {}, h("th", { scope: "row" }, h("code", {}, island.prefix)), cell("Nodes", "", nodes));
}

/** Makes all rows anew. */
export function fill(network) {
  const names = new Map(network.nodes.map((one) => [one.id, one.name]));
  at("nodes").tBodies[0].replaceChildren(...network.nodes.map(nodeRow));
  at("links").tBodies[0].replaceChildren(...network.links.map((one) => linkRow(one, names)));
  at("islands").tBodies[0].replaceChildren(...network.islands.map((one) => islandRow(one, names)));
  for (const [table, list] of [
    ["nodes", network.nodes],
    ["links", network.links],
    ["islands", network.islands],
  ]) {
    at(`${table}-title`).querySelector(".count").textContent = list.length;
  }
  at("node-names").replaceChildren(...network.nodes.map((one) => h("option", { value: one.name })));
}

/** Do the tables have a row for each node and link, and no other? */
export function holds(network) {
  return [
    ["nodes", network.nodes],
    ["links", network.links],
  ].every(([table, list]) => {
    const there = rows(table);
    return there.size === list.length && list.every((one) => there.has(one.id));
  });
}

/** States and findings that are not what the rows say. */
export function refresh(network) {
  for (const [table, list] of [
    ["nodes", network.nodes],
    ["links", network.links],
  ]) {
    const there = rows(table);
    for (const one of list) {
      const row = there.get(one.id);
      const shown = row?.querySelector(".state");
      if (shown && shown.textContent !== one.state) mark(row, one.state);
      if (table === "nodes") row?.querySelector(".found")?.replaceChildren(...findings(one.findings).filter(Boolean));
    }
  }
}

function mark(row, state) {
  row.querySelector(".is").replaceChildren(stateWord(state));
  row.classList.remove("moved");
  void row.offsetWidth; // so that the animation begins again
  row.classList.add("moved");
}

/** A state that has changed, in the row of a node or link. */
export function setState(table, id, state) {
  const row = rows(table).get(id);
  if (row) mark(row, state);
}

export function setFindings(id, found) {
  rows("nodes")
    .get(id)
    ?.querySelector(".found")
    ?.replaceChildren(...findings(found).filter(Boolean));
}
