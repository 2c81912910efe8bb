// A trace as a list of hops, and in a sentence.

import { brief, h, nodeLink } from "./dom.js";

const GOOD = new Set(["ACCEPTED", "DELIVERED_TO_SUBNET", "EXITS_NETWORK"]);
const MEANINGS = {
  ACCEPTED: "it arrives",
  DELIVERED_TO_SUBNET: "it arrives on the link of its destination",
  EXITS_NETWORK: "it leaves the known network",
  NEIGHBOR_UNREACHABLE: "a next hop does not answer, or a link does not carry",
  NO_ROUTE: "a node on the way has no route",
  NULL_ROUTED: "a node on the way discards it",
  LOOP: "it goes round in a loop",
  UNKNOWN: "its trail is lost",
};

export const isGood = (way) => GOOD.has(way.disposition);
export const arrives = (trace) => isGood(trace) && (!trace.back || isGood(trace.back));
export const meaning = (disposition) => MEANINGS[disposition] ?? disposition;

/** The names of the nodes that a way passes. */
export const nodesOf = (way) => way.hops.map((hop) => hop.node ?? "?");

/** The links and nodes that a trace uses, there and back, and without which its ends are still there. `hangsOn(id)` is
    the one node that a host hangs on, if it does. */
export function usedBy(trace, hangsOn = () => null) {
  const used = new Set();
  const ends = [trace.hops[0], trace.hops.at(-1)].map((hop) => hop && hangsOn(hop.node_id));
  for (const way of [trace, trace.back].filter(Boolean)) {
    way.hops.forEach((hop, n) => {
      if (hop.link_id) used.add(hop.link_id);
      // The ends of a way cannot fail without ending it.
      if (hop.node_id && n > 0 && n < way.hops.length - 1 && !ends.includes(hop.node_id)) used.add(hop.node_id);
    });
  }
  return used;
}

const dev = (word, name) => (name ? [`${word} `, h("span", { class: "dev" }, name)] : null);

function hopItem(hop) {
  const name = hop.node_id
    ? nodeLink(hop.node_id, brief(hop.node ?? "?", 60))
    : h("b", { class: "bidi" }, hop.node ?? "?");
  return h(
    "li",
    {},
    h(
      "p",
      { class: "hop" },
      name,
      " ",
      hop.in || hop.out
        ? h("span", { class: "devs" }, dev("in", hop.in), hop.in && hop.out ? ", " : null, dev("out", hop.out))
        : null,
    ),
    hop.next_hop ? h("p", { class: "via" }, "next hop ", h("code", {}, hop.next_hop)) : null,
    hop.route ? h("p", { class: "route" }, h("code", {}, hop.route)) : null,
    (hop.notes ?? []).map((note) => h("p", { class: "note" }, note)),
    hop.ends && (hop.why || !GOOD.has(hop.ends))
      ? h("p", { class: "ends" }, h("b", {}, hop.ends), hop.why ? `: ${hop.why}` : "")
      : null,
  );
}

/** A heading and a list: the way there, or back. */
export function wayList(way, heading, kind) {
  return [
    h(
      "h3",
      { class: `way ${kind}` },
      heading,
      " ",
      h("span", { class: `fate ${isGood(way) ? "good" : "bad"}` }, way.disposition),
    ),
    h("ol", { class: `hops ${kind}` }, way.hops.map(hopItem)),
  ];
}
