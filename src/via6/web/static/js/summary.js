// The line at the head of the network's page: is all well, what is not, and what is there? pages.py says the same.

import { at, h } from "./dom.js";

const NAMED = 2;

const plural = (number, word) => {
  const [head, tail] = word.split(" with ");
  return `${number} ${head}${number === 1 ? "" : "s"}${tail ? ` with ${tail}` : ""}`;
};

function down(names, what, href) {
  if (names.length > NAMED) return [{ text: `${plural(names.length, what)} are down.`, href, bad: true }];
  return names.map((name) => ({ text: `The ${what} ${name} is down.`, href, bad: true }));
}

function doctor(found) {
  if (!found.length) return [];
  const sum = (kind) => found.reduce((all, one) => all + one[kind], 0);
  const [error, warning] = [sum("error"), sum("warning")];
  const counts = [error && plural(error, "error"), warning && plural(warning, "warning")].filter(Boolean);
  const text = `The doctor finds ${counts.join(" and ") || "nothing wrong"}.`;
  return [{ text, href: "#problems-title", bad: error > 0 }];
}

const without = (network) => network.nodes.filter((one) => one.software !== "link");

/** What is down, in sentences. */
export function whatIsDown(network) {
  const names = new Map(network.nodes.map((one) => [one.id, one.name]));
  const nodes = without(network).filter((one) => one.state === "down");
  const cut = network.links.filter((one) => one.state === "down");
  return [
    ...down(
      nodes.map((one) => one.name),
      "node",
      "#nodes-title",
    ),
    ...down(
      cut.map((one) => `${names.get(one.a.node)} to ${names.get(one.b.node)}`),
      "link",
      "#links-title",
    ),
  ];
}

function summary(network) {
  const nodes = without(network);
  const news = [...whatIsDown(network), ...doctor(nodes.map((one) => one.findings).filter(Boolean))];
  const good = !news.some((one) => one.bad);
  const counted = (list, word) => (list.length ? plural(list.length, word) : null);
  const facts = [
    counted(
      nodes.filter((one) => one.kind === "router"),
      "router",
    ),
    counted(
      nodes.filter((one) => one.kind === "host"),
      "host",
    ),
    counted(
      nodes.filter((one) => one.kind === "unknown"),
      "other node",
    ),
    counted(
      network.links.filter((one) => !one.ipv4),
      "IPv6-only link",
    ),
    counted(
      network.links.filter((one) => one.ipv4),
      "link with IPv4",
    ),
    plural(network.islands.length, "IPv4 island"),
  ].filter(Boolean);
  const lead = !good ? "Not all is well." : nodes.length ? "All is up." : "No node is known yet.";
  return { good, lead, news, facts };
}

/** Says it, if it is not what stands there. */
export function summarise(network) {
  const { good, lead, news, facts } = summary(network);
  const parts = [
    h("b", { class: "lead" }, lead),
    ...news.map((one) => h("a", { href: one.href, class: one.bad ? "bidi bad" : "bidi" }, one.text)),
    h("span", { class: "facts" }, facts.join(", ")),
  ].flatMap((one) => [one, " "]);
  const place = at("summary");
  place.classList.toggle("good", good);
  place.classList.toggle("bad", !good);
  const words = parts.map((one) => one.textContent ?? one).join("");
  if (place.textContent.trim() !== words.trim()) place.replaceChildren(...parts);
}

/** A link to a table that is folded unfolds it. */
export function unfold() {
  const folded = document.getElementById(location.hash.slice(1))?.closest("details");
  if (folded) folded.open = true;
}
