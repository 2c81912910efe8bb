// What if something on the path fails? Each link and node on it, one after the other, on paper.

import { ask, Refused } from "./api.js";
import { at, brief, h, refusal } from "./dom.js";
import { arrives, isGood, meaning, nodesOf, usedBy } from "./hops.js";

export class Failures {
  /** `choose(id)` shows the path after a failure; `hangsOn`: see usedBy. */
  constructor({ choose, hangsOn }) {
    Object.assign(this, { choose, hangsOn });
    this.round = 0;
    at("each-begin").addEventListener("click", () => this.begin());
  }

  /** What can fail of the path `base`, of all failures; `query` asks for the path itself. */
  offer(base, failures, query) {
    const used = base ? usedBy(base, this.hangsOn) : new Set();
    const list = failures.filter((one) => used.has(one.id));
    const word = JSON.stringify([query, list.map((one) => one.id), base && nodesOf(base)]);
    if (word === this.word) return;
    this.word = word;
    this.round++;
    Object.assign(this, { base, list, query });
    at("each-answer").replaceChildren();
    at("each-begin").hidden = false;
    at("each").hidden = !list.length;
  }

  async begin() {
    const mine = ++this.round;
    const rows = new Map(this.list.map((one) => [one.id, this.row(one)]));
    const verdict = h("p", { class: "note" }, "Trying each on paper; nothing is cut.");
    at("each-answer").replaceChildren(verdict, h("ul", { class: "each" }, [...rows.values()]));
    at("each-begin").hidden = true;
    let lost = 0;
    for (const one of this.list) {
      let trace = null;
      let refused = null;
      try {
        trace = await ask("trace", { ...this.query, fail: one.id });
      } catch (error) {
        refused = error;
      }
      if (mine !== this.round) return;
      // 400: where it begins is gone with what fails.
      if (refused && refused.status !== 400) {
        verdict.replaceWith(refusal(refused instanceof Refused ? refused : new Refused(String(refused))));
        at("each-begin").hidden = false;
        return;
      }
      const good = trace !== null && arrives(trace);
      lost += good ? 0 : 1;
      tell(rows.get(one.id), good, trace === null ? refused.error : words(trace, good));
    }
    const all = this.list.length;
    const works = arrives(this.base);
    if (!works) verdict.textContent = `It does not work now. It would if one of ${all - lost} of these ${all} were gone.`;
    else verdict.textContent = lost ? `${lost} of ${all} would break it.` : `None of these ${all} would break it.`;
    verdict.className = lost || !works ? "fate bad" : "fate good";
  }

  row(one) {
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", class: "row", onclick: () => this.choose(one.id) },
        h("span", { class: "what" }, `${one.kind} ${brief(one.name, 60)}`),
        " ",
        h("span", { class: "then" }, "…"),
      ),
    );
  }
}

function words(trace, good) {
  if (!good) return meaning((isGood(trace) ? trace.back : trace).disposition);
  const through = nodesOf(trace)
    .slice(1, -1)
    .map((name) => brief(name, 24));
  return `through ${through.join(", ") || "no other node"}`;
}

function tell(row, good, then) {
  row.className = good ? "good" : "bad";
  row.querySelector(".then").textContent = `${good ? "✓" : "✕"} ${then}`;
}
