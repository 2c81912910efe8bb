// Where does a packet go, and where would it go if something failed? The form, its answer, and the path in the picture.

import { ask, newest, nodePath, Refused } from "./api.js";
import { at, brief, h, refusal, soon } from "./dom.js";
import { Failures } from "./failures.js";
import { arrives, isGood, meaning, nodesOf, usedBy, wayList } from "./hops.js";

const WAIT_MS = 150;
const LONGEST_MS = 500;
const NOT_HOSTS = /^(127\.|169\.254\.|192\.0\.0\.8$)/;

export class Path {
  /** `draw(trace, good, fail)` and `undraw()` belong to the picture, `moved(text, good)` to the timeline, `names()` and
      `hangsOn(id)` to the network. */
  constructor({ draw, undraw, moved, names, hangsOn }) {
    Object.assign(this, { draw, undraw, moved, names, hangsOn });
    this.shown = null; // what the form said when the path was asked for
    this.base = null; // the trace without a failure
    this.order = [""];
    this.failures = [];
    this.askTrace = newest();
    this.each = new Failures({ choose: (id) => this.choose(id), hangsOn });
    this.again = soon(() => this.show(true), WAIT_MS, LONGEST_MS);
    this.listen();
  }

  listen() {
    at("path").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    at("clear").addEventListener("click", () => this.clear());
    at("swap").hidden = false;
    at("swap").addEventListener("click", () => this.swap());
    at("fail").addEventListener("change", () => this.choose(at("fail").value));
    at("fail-back").addEventListener("click", () => this.step(-1));
    at("fail-on").addEventListener("click", () => this.step(1));
    const slide = soon(() => this.shown && this.show(false), 120);
    at("fail-slider").addEventListener("input", () => {
      at("fail").value = this.order[Number(at("fail-slider").value)] ?? "";
      this.tellSlider();
      slide();
    });
  }

  /** Sets a field as the picture asks for it. */
  set(field, name) {
    at(field).value = name;
    if (at("from").value && at("to").value) this.start();
    else at(field === "from" ? "to" : "from").focus();
  }

  /** The link or node fails: shows where the packet goes then, if one is being looked at. */
  choose(fail) {
    at("fail").value = fail;
    at("fail-slider").value = Math.max(0, this.order.indexOf(fail));
    this.tellSlider();
    if (this.shown) this.show(false);
    else if (fail && at("from").value && at("to").value) this.start();
  }

  step(by) {
    const next = this.order.indexOf(at("fail").value) + by;
    if (next >= 0 && next < this.order.length) this.choose(this.order[next]);
  }

  async swap() {
    const from = at("from").value;
    at("from").value = at("to").value;
    at("to").value = from;
    if (this.shown) this.start();
  }

  /** A failure list that may be long; it is put in order once a path is known. */
  async load() {
    try {
      this.failures = await ask("failures");
    } catch {
      this.failures = [];
    }
    this.arrange();
  }

  arrange() {
    const chosen = at("fail").value;
    const used = this.base ? usedBy(this.base, this.hangsOn) : new Set();
    const option = (one) => h("option", { value: one.id }, `${one.kind} ${brief(one.name, 60)}`);
    const on = this.failures.filter((one) => used.has(one.id));
    const links = this.failures.filter((one) => !used.has(one.id) && one.kind === "link");
    const nodes = this.failures.filter((one) => !used.has(one.id) && one.kind !== "link");
    const groups = [
      ["On this path", on],
      [on.length ? "Other links" : "Links", links],
      [on.length ? "Other nodes" : "Nodes", nodes],
    ];
    at("fail").replaceChildren(
      h("option", { value: "" }, "nothing fails"),
      ...groups.filter(([, list]) => list.length).map(([label, list]) => h("optgroup", { label }, list.map(option))),
    );
    at("fail").value = chosen;
    this.order = ["", ...on, ...links, ...nodes].map((one) => one.id ?? "");
    const slider = at("fail-slider");
    slider.max = this.order.length - 1;
    slider.value = Math.max(0, this.order.indexOf(chosen));
    at("fail-steps").hidden = this.order.length < 2 || !this.shown;
    this.tellSlider();
    this.offer();
  }

  offer() {
    const { from, to, proto, port } = this.shown ?? {};
    this.each.offer(this.shown && this.base, this.failures, { from, to, proto, port });
  }

  tellSlider() {
    const now = this.order.indexOf(at("fail").value);
    at("fail-back").disabled = now <= 0;
    at("fail-on").disabled = now >= this.order.length - 1;
    at("fail-slider").setAttribute("aria-valuetext", at("fail").selectedOptions[0]?.textContent ?? "nothing fails");
  }

  clear() {
    this.shown = null;
    this.base = null;
    at("answer").replaceChildren();
    at("verdict").hidden = true;
    at("clear").hidden = true;
    at("fail").value = "";
    this.arrange();
    this.undraw();
    history.replaceState(null, "", location.pathname);
  }

  async start() {
    at("clear").hidden = false;
    try {
      const from = at("from").value.trim();
      const to = await this.address(at("to").value.trim());
      this.shown = {
        from: this.names().get(from) ?? from,
        to,
        proto: at("proto").value,
        port: at("port").value.trim(),
        words: [from, at("to").value.trim()],
      };
    } catch (error) {
      this.fail(error);
      return;
    }
    this.base = null;
    await this.show(false);
    this.arrange();
  }

  /** The name of a node stands for its first IPv4 address. */
  async address(text) {
    const id = this.names().get(text);
    if (id === undefined) return text;
    const node = await ask(nodePath(id));
    const all = node.interfaces.flatMap((one) => one.addresses).map((one) => one.split("/")[0]);
    const found = all.find((one) => /^\d+\.\d+\.\d+\.\d+$/.test(one) && !NOT_HOSTS.test(one));
    if (!found)
      throw new Refused(`${brief(text, 60)} has no IPv4 address.`, "Give an address in one of the IPv4 islands.");
    return found;
  }

  /** Asks and draws. `live`: because the network has changed, so what is different now is told. */
  async show(live) {
    if (!this.shown) return;
    const { from, to, proto, port } = this.shown;
    const fail = at("fail").value;
    const query = { from, to, proto, port };
    let trace;
    try {
      if (live || !this.base) {
        const base = await this.askTrace("trace", query);
        if (!base) return;
        if (live && this.base) this.tell(base);
        this.base = base;
      }
    } catch (error) {
      this.fail(error);
      return;
    }
    try {
      trace = fail ? await this.askTrace("trace", { ...query, fail }) : this.base;
      if (!trace) return;
    } catch (error) {
      if (error.status !== 400) return this.fail(error);
      trace = { hops: [], refused: error.error }; // where it begins is gone, too
    }
    if (fail !== at("fail").value) return;
    this.answer(trace, fail);
    if (live) this.offer();
    this.draw(trace, !trace.refused && arrives(trace), fail);
    const words = new URLSearchParams(
      Object.entries({
        from: this.shown.words[0],
        to: this.shown.words[1],
        proto: proto === "icmp" ? "" : proto,
        port,
        fail,
      }).filter(([, value]) => value),
    );
    history.replaceState(null, "", `?${words}`);
  }

  tell(now) {
    const was = nodesOf(this.base).join(" ");
    const is = nodesOf(now).join(" ");
    if (was === is && this.base.disposition === now.disposition) return;
    const way = nodesOf(now)
      .map((one) => brief(one, 24))
      .join(" → ");
    this.moved(`${this.label()} now goes ${way}${isGood(now) ? "" : `: ${meaning(now.disposition)}`}`, isGood(now));
  }

  label() {
    return `${brief(this.shown.words[0], 40)} to ${brief(this.shown.words[1], 40)}`;
  }

  fail(error) {
    at("verdict").hidden = true;
    at("each").hidden = true;
    this.each.word = "";
    at("answer").replaceChildren(refusal(error instanceof Refused ? error : new Refused(String(error))));
    this.undraw();
  }

  /** The way back takes room only where it is of interest. */
  back(trace) {
    if (!trace.back) return "";
    const same = nodesOf(trace.back).reverse().join(" ") === nodesOf(trace).join(" ");
    const open = at("answer").querySelector("details")?.open || !isGood(trace.back);
    const summary = same ? "The way back: the same nodes" : "The way back: other nodes";
    return h("details", { class: "back-way", open }, h("summary", {}, summary), wayList(trace.back, "Back", "back"));
  }

  gone(why) {
    const name = brief(at("fail").selectedOptions[0]?.textContent ?? "this", 60);
    at("verdict").hidden = false;
    at("verdict").className = "verdict bad";
    at("verdict").replaceChildren(h("b", {}, `If ${name} fails: `), why.replace(/^from: /, ""), ".");
    at("answer").replaceChildren();
  }

  answer(trace, fail) {
    if (trace.refused) return this.gone(trace.refused);
    const good = arrives(trace);
    const sentence = (way) =>
      isGood(way) ? meaning(way.disposition) : `it does not arrive: ${meaning(way.disposition)}`;
    const parts = [];
    if (fail) {
      const name = brief(at("fail").selectedOptions[0]?.textContent ?? fail, 60);
      const same = nodesOf(trace).join(" ") === nodesOf(this.base).join(" ");
      const through = nodesOf(trace)
        .slice(1, -1)
        .map((one) => brief(one, 24))
        .join(", ");
      const how = !isGood(trace)
        ? sentence(trace)
        : same
          ? "the path stays as it is"
          : `it still arrives, through ${through || "no other node"}`;
      parts.push(
        h("b", {}, `If ${name} fails: `),
        how,
        trace.back && !isGood(trace.back) ? `; its answer: ${sentence(trace.back)}` : "",
        ".",
      );
    } else {
      parts.push(h("b", {}, good ? "There and back: " : "Trouble: "), sentence(trace));
      if (trace.back && !isGood(trace.back)) parts.push(`; its answer: ${sentence(trace.back)}`);
      else if (trace.asymmetric) parts.push("; the answer takes another way");
      parts.push(".");
    }
    at("verdict").hidden = false;
    at("verdict").className = `verdict ${good ? "good" : "bad"}`;
    at("verdict").replaceChildren(...parts);
    at("answer").replaceChildren(
      ...wayList(trace, "There", "there"),
      this.back(trace),
      ...(trace.remarks ?? []).map((one) => h("p", { class: "note" }, one)),
    );
  }
}
