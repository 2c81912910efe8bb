// What the doctor found on the nodes, and what verify says of every IPv4 packet.

import { ask, nodePath, Refused } from "./api.js";
import { at, breaks, brief, count, h, nodeLink, refusal, soon } from "./dom.js";
import { meaning } from "./hops.js";
import { whatIsDown } from "./summary.js";

const NODES = 12; // of which the findings themselves are shown here; of more their number is
const FINDINGS = 4; // of one node
const PROBLEMS = 40;

export class Problems {
  /** `show(from, to)` asks for the path of a packet. */
  constructor({ show }) {
    this.show = show;
    this.asked = 0;
    this.verified = false;
    this.refresh = soon((network) => this.findings(network), 200, 1000);
    at("verify").hidden = false;
    at("verify").addEventListener("click", () => this.verify());
  }

  async findings(network) {
    const mine = ++this.asked;
    const { nodes } = network;
    const troubled = nodes
      .filter((one) => one.findings?.error || one.findings?.warning)
      .sort((a, b) => (b.findings.error ?? 0) - (a.findings.error ?? 0));
    const lists = await Promise.all(
      troubled.slice(0, NODES).map((one) => ask(`${nodePath(one.id)}/findings`).catch(() => [])),
    );
    if (mine !== this.asked) return;
    const open = new Set([...at("finding-counts").querySelectorAll("details[open]")].map((one) => one.dataset.id));
    const items = troubled.map((node, n) =>
      this.node(
        node,
        (lists[n] ?? []).filter((one) => !one.depends_on?.length),
        open,
      ),
    );
    items.unshift(...whatIsDown(network).map((one) => h("li", { class: "bidi" }, h("b", { class: "error" }, one.text))));
    if (!items.length) {
      const asked = nodes.some((one) => one.findings);
      const words = asked ? "The doctor finds nothing wrong." : "The doctor has not looked yet.";
      items.push(h("li", { class: "none" }, words));
    }
    at("finding-counts").replaceChildren(...items);
  }

  node(node, roots, open) {
    const { error = 0, warning = 0 } = node.findings;
    const counts = [
      error ? h("b", { class: "error" }, count(error, "error")) : null,
      error && warning ? ", " : null,
      warning ? h("b", { class: "warning" }, count(warning, "warning")) : null,
    ];
    return h(
      "li",
      {},
      nodeLink(node.id, node.name),
      ": ",
      counts,
      roots.slice(0, FINDINGS).map((one) => this.finding(one, open)),
      roots.length > FINDINGS
        ? h("p", { class: "note" }, h("a", { href: `/nodes/${encodeURIComponent(node.id)}` }, `${roots.length - FINDINGS} more`))
        : null,
    );
  }

  finding(one, open) {
    return h(
      "details",
      { class: `short-finding ${one.severity}`, "data-id": one.id, open: open.has(one.id) },
      h("summary", {}, h("span", { class: "severity" }, one.severity), " ", one.title),
      one.breaks ? breaks(one) : null,
      one.remedy ? [h("p", { class: "label" }, "Remedy"), h("pre", { class: "remedy" }, one.remedy)] : null,
    );
  }

  /** What verify said is of another time now. */
  stale() {
    if (this.verified) at("verify").textContent = "Check again: the network has changed";
  }

  async verify() {
    const button = at("verify");
    const place = at("verify-answer");
    button.disabled = true;
    button.textContent = "Checking";
    try {
      const report = await ask("verify");
      place.replaceChildren(...this.report(report));
      this.verified = true;
    } catch (error) {
      place.replaceChildren(refusal(error instanceof Refused ? error : new Refused(String(error))));
    }
    button.disabled = false;
    button.textContent = "Check again";
  }

  report(report) {
    const bad = report.problems.length;
    const head = h(
      "p",
      { class: `verdict ${bad ? "bad" : "good"}` },
      h("b", {}, bad ? `${count(bad, "problem")}. ` : "No problem. "),
      `${report.arriving} of ${report.pairs} ways between islands work`,
      report.asymmetric ? `, ${report.asymmetric} of them come back another way` : "",
      ".",
    );
    const more = bad > PROBLEMS ? h("p", { class: "note" }, `and ${bad - PROBLEMS} more: via6 verify lists all`) : null;
    return [
      head,
      h(
        "ul",
        { class: "short problems" },
        report.problems.slice(0, PROBLEMS).map((one) => this.problem(one)),
      ),
      more,
    ].filter(Boolean);
  }

  problem(one) {
    const from = one.path[0] ?? one.node;
    const button =
      from && one.packet?.destination
        ? h("button", { type: "button", class: "tiny", onclick: () => this.show(from, one.packet.destination) }, "Show")
        : null;
    return h(
      "li",
      {},
      h(
        "p",
        {},
        h("code", {}, one.prefix),
        ` at `,
        h("b", { class: "bidi" }, one.node || "?"),
        `: ${one.why || meaning(one.disposition)} `,
        h("code", {}, one.disposition),
      ),
      one.path.length > 1 ? h("p", { class: "note" }, one.path.map((name) => brief(name, 24)).join(" → ")) : null,
      button,
    );
  }
}
