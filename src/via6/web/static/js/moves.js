// Routes that move, in the timeline: one by one they would hide what moved them, so those of a burst share a line.

import { change, count, prepend } from "./dom.js";

const PAUSE_MS = 2000;
const NAMED = 6;

export class Moves {
  constructor(list) {
    this.list = list;
    this.line = null;
    this.last = 0;
  }

  /** `number` routes of a node; `text` tells of one. `gone`: it has no successor. */
  tell(name, number, text, gone) {
    const now = Date.now();
    if (!this.line?.isConnected || now - this.last > PAUSE_MS) {
      this.nodes = new Map();
      this.line = change({ time: now / 1000, kind: "route", text: "", good: null });
      prepend(this.list, this.line);
    }
    this.last = now;
    this.nodes.set(name, (this.nodes.get(name) ?? 0) + number);
    if (this.all() === 1) this.line.classList.toggle("bad", gone);
    else this.line.classList.remove("bad");
    this.line.querySelector(".what").textContent = this.words(name, text);
  }

  all() {
    return [...this.nodes.values()].reduce((sum, one) => sum + one, 0);
  }

  words(name, text) {
    const all = this.all();
    if (all === 1) return `${name}: ${text}`;
    if (this.nodes.size === 1) return `${name}: ${count(all, "route")} moved`;
    const names = [...this.nodes.keys()];
    const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : "";
    return `${count(all, "route")} moved on ${names.length} nodes: ${names.slice(0, NAMED).join(", ")}${more}`;
  }
}
