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

/** The links and nodes that a trace uses, there and back. */
export function usedBy(trace) {
  const used = new Set();
  for (const way of [trace, trace.back].filter(Boolean)) {
    way.hops.forEach((hop, n) => {
      if (hop.link_id) used.add(hop.link_id);
      // The ends of a way cannot fail without ending it.
      if (hop.node_id && n > 0 && n < way.hops.length - 1) used.add(hop.node_id);
    });
  }
  return used;
}

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
      hop.in ? [h("span", { class: "dev" }, hop.in), " "] : null,
      name,
      hop.out ? [" ", h("span", { class: "dev" }, hop.out)] : null,
      hop.next_hop && !hop.route?.includes(hop.next_hop)
        ? [" ", h("span", { class: "via" }, "next hop ", h("code", {}, hop.next_hop))]
        : null,
    ),
    hop.route ? h("p", { class: "route" }, h("code", {}, hop.route)) : null,
    (hop.notes ?? []).map((note) => h("p", { class: "note" }, note)),
    hop.ends ? h("p", { class: "ends" }, h("b", {}, hop.ends), hop.why ? `: ${hop.why}` : "") : null,
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
    h("ol", { class: "hops" }, way.hops.map(hopItem)),
  ];
}
