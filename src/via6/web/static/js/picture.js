// The network as a picture: nodes, links, and the IPv4 islands as nodes of their own between those who are in them.
// What there is to draw is worked out in scene.js.

import cytoscape from "/vendor/cytoscape/cytoscape.js";
import { brief, count, soon } from "./dom.js";
import { Flight } from "./flight.js";
import { Labels, RANKS } from "./labels.js";
import { arrange } from "./layout.js";
import { look, palette } from "./look.js";
import { common, islandKey, memberKey, nodeKey, sceneOf, usualCost } from "./scene.js";

const PULSE_MS = 1600;
const WAS_MS = 3500;
const BESIDE = 6; // pixels of the path from its link
const margins = (width) => ({ top: width < 600 ? 84 : 72, bottom: 40, side: width < 600 ? 46 : 66 }); // tools above, words beside and below

// A large network drawn small: lines and nodes stay visible.
const thickness = (zoom) =>
  [
    [0.2, 3.2],
    [0.35, 2.2],
    [0.6, 1.5],
  ].find(([below]) => zoom < below)?.[1] ?? 1;

export class Picture {
  constructor(container, { chosen, opened }) {
    this.container = container;
    this.network = null;
    this.links = new Map(); // id -> link
    this.through = new Map(); // id of a link -> the keys of the lines that stand for it
    this.standsFor = new Map(); // key of a line -> ids of links
    this.pulses = new Map();
    this.known = "";
    this.drawn = ""; // the path, as a word
    this.pointed = null; // the element that the mouse is over
    container.querySelector(".waiting")?.remove();
    this.cy = cytoscape({
      container,
      elements: [],
      style: look(),
      minZoom: 0.08,
      maxZoom: 3.5,
      boxSelectionEnabled: false,
      selectionType: "single",
    });
    this.colours = palette();
    this.labels = new Labels(container, this.cy, (element) => this.written(element));
    this.labels.restyle(this.colours);
    this.flight = new Flight(container, this.cy, (name) => this.colours(name));
    this.cy.on("mouseover mouseout", "node, edge", (event) => this.point(event));
    this.cy.on("dragfree", "node", () => this.redraw());
    this.cy.on("position", "node", () => this.labels.touch());
    this.cy.on("select unselect", () => this.labels.touch());
    this.cy.on(
      "zoom",
      soon(() => thickness(this.cy.zoom()) !== this.thick && this.restyle(), 60),
    );
    this.cy.on("select", (event) => chosen(this.described(event.target)));
    this.cy.on("unselect", () => !this.cy.$(":selected").length && chosen(null));
    this.cy.on("dbltap", "node", (event) => event.target.data("node") && opened(event.target.data("node")));
    // The wheel belongs to the page; with Ctrl it zooms, as in maps.
    container.addEventListener("wheel", (event) => this.cy.userZoomingEnabled(event.ctrlKey || event.metaKey), {
      capture: true,
      passive: true,
    });
    for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
      matchMedia(query).addEventListener("change", () => this.restyle());
    }
    let width = container.clientWidth;
    new ResizeObserver(() => {
      this.cy.resize();
      if (Math.abs(container.clientWidth - width) > 60) this.fit();
      width = container.clientWidth;
    }).observe(container);
  }

  restyle(zoom = this.cy.zoom()) {
    this.thick = thickness(zoom);
    this.colours = palette();
    this.labels.restyle(this.colours);
    this.cy.style(look(this.thick));
    this.labels.touch();
  }

  point({ type, target }) {
    this.container.style.cursor = type === "mouseover" && this.described(target) ? "pointer" : "";
    this.pointed = type === "mouseover" ? target : null;
    this.labels.touch();
  }

  // --- the network ---

  /** Shows this network. What was there before keeps its place. */
  show(network) {
    this.network = network;
    this.links = new Map(network.links.map((one) => [one.id, one]));
    const { elements, through, standsFor, home, minor } = sceneOf(network);
    Object.assign(this, { through, standsFor, home, minor });
    this.nodes = new Map(network.nodes.map((one) => [nodeKey(one.id), one]));
    this.islands = new Map(network.islands.map((one) => [islandKey(one.id), one]));
    this.usual = usualCost(network);
    const form = elements
      .map((one) => `${one.data.id} ${one.classes}`)
      .sort()
      .join("\n");
    const first = this.known === "";
    if (form !== this.known) this.rebuild(elements, first);
    this.cy.batch(() => {
      for (const node of network.nodes) this.paintNode(node);
      for (const key of this.standsFor.keys()) this.paintLine(key);
    });
    this.labels.touch();
    this.known = form;
  }

  rebuild(elements, first) {
    const places = new Map(this.cy.nodes().map((one) => [one.id(), { ...one.position() }]));
    const nodes = elements.filter((one) => one.group === "nodes").map((one) => one.data.id);
    const edges = elements.filter((one) => one.group === "edges").map((one) => [one.data.source, one.data.target]);
    const kept = nodes.filter((id) => places.has(id)).length;
    // A few that are new stand beside their neighbours; many new ones are a new picture.
    const arranged =
      kept > nodes.length * 0.7 ? this.beside(nodes, edges, places) : arrange(nodes, edges, this.ratio(), this.minor);
    this.cy.elements().remove();
    // The style stands before the elements come: working it out twice takes longer than all else.
    if (first) {
      this.frame(arranged.values());
      this.restyle(this.cy.zoom());
    }
    this.cy.add(elements.map((one) => (one.group === "nodes" ? { ...one, position: arranged.get(one.data.id) } : one)));
  }

  beside(nodes, edges, places) {
    const out = new Map(places);
    const left = nodes.filter((id) => !places.has(id));
    left.forEach((id, n) => {
      const near = edges
        .filter((pair) => pair.includes(id))
        .map(([a, b]) => out.get(a === id ? b : a))
        .filter(Boolean);
      const x = near.length ? near.reduce((sum, one) => sum + one.x, 0) / near.length : 0;
      const y = near.length ? near.reduce((sum, one) => sum + one.y, 0) / near.length : 0;
      out.set(id, { x: x + 55 * Math.cos(n * 2.4 + 0.7), y: y + 55 * Math.sin(n * 2.4 + 0.7) });
    });
    return out;
  }

  ratio() {
    return this.container.clientWidth / Math.max(1, this.container.clientHeight);
  }

  // --- states ---

  paintNode(node) {
    const element = this.cy.getElementById(nodeKey(node.id));
    const { error = 0, warning = 0 } = node.findings ?? {};
    element.toggleClass("down", node.state === "down").toggleClass("unknown", node.state === "unknown");
    element.toggleClass("wrong", error > 0).toggleClass("warned", !error && warning > 0);
    this.labels.touch();
  }

  paintLine(key) {
    const links = this.standsFor.get(key).map((id) => this.links.get(id));
    const element = this.cy.getElementById(key);
    const every = (state) => links.length > 0 && links.every((one) => one.state === state);
    element.toggleClass("down", every("down")).toggleClass("unknown", every("unknown"));
    this.labels.touch();
  }

  /** What stands at an element: see labels.js. */
  written(element) {
    const chosen = element.selected() || element === this.pointed;
    const first = (rank) => (chosen ? RANKS.chosen : element.hasClass("on-path") ? RANKS.path : rank);
    if (element.isEdge()) return this.writtenAt(element, chosen);
    const island = this.islands.get(element.id());
    if (island) {
      const line = { text: island.prefix, colour: "ink", mono: true, size: 11.5 };
      return { rank: first(RANKS.island), lines: [line] };
    }
    const node = this.nodes.get(element.id());
    if (!node) return null;
    const host = element.hasClass("host");
    const lines = [];
    if (!element.hasClass("segment") || chosen)
      lines.push({ text: brief(node.name, 26), colour: "ink", bold: !host, size: host ? 12 : 13 });
    const { error = 0, warning = 0 } = node.findings ?? {};
    const more = (text, colour) => lines.push({ text, colour, bold: true, size: 11.5 });
    if (element.hasClass("fails")) more("✕ fails", "bad");
    else if (node.state === "down") more("✕ down", "bad");
    if (error) more(`▲ ${count(error, "error")}`, "bad");
    else if (warning) more(`△ ${count(warning, "warning")}`, "warn");
    if (!lines.length) return null;
    const wrong = node.state === "down" || error > 0 || element.hasClass("fails");
    return { rank: first(wrong ? RANKS.wrong : host ? RANKS.host : RANKS.router), lines };
  }

  // Costs are written where they are not the usual one, and at what is chosen.
  writtenAt(edge, chosen) {
    const line = (text, colour, rank) => ({ rank, lines: [{ text, colour, bold: colour === "bad", size: 11.5 }] });
    if (edge.hasClass("fails")) return line("✕ fails", "bad", RANKS.wrong);
    if (edge.hasClass("down")) return line("✕ down", "bad", RANKS.wrong);
    const link = this.links.get(edge.data("link"));
    const cost = link?.cost ?? null;
    if (cost === null || edge.hasClass("under") || (cost === this.usual && !chosen)) return null;
    return line(`cost ${cost}`, "soft", chosen ? RANKS.chosen : RANKS.cost);
  }

  setLink(id, state) {
    const link = this.links.get(id);
    if (!link) return;
    link.state = state;
    for (const key of this.through.get(id)?.lines ?? []) this.paintLine(key);
  }

  /** A short glow: something moved here. */
  pulse(id) {
    const element = this.cy.getElementById(nodeKey(id));
    if (!element.length) return;
    clearTimeout(this.pulses.get(id));
    element.addClass("pulse");
    this.pulses.set(
      id,
      setTimeout(() => element.removeClass("pulse"), PULSE_MS),
    );
  }

  // --- paths ---

  clearPath() {
    this.flight.stop();
    this.drawn = "";
    this.base = null;
    this.wipe();
    this.labels.touch();
  }

  wipe() {
    this.cy.batch(() => {
      this.cy.elements(".path").remove();
      this.cy.elements().removeClass("aside under on-path ends-good ends-bad fails");
    });
  }

  /** Draws the way there (solid) and back (dashed) of a trace; `fail` is what has failed in it. A path that moves leaves
      its old lines for a moment. */
  drawPath(trace, good, fail = "") {
    const ways = [trace, trace.back].filter(Boolean).map((way) => way.hops.map((hop) => [hop.node_id, hop.link_id]));
    const word = JSON.stringify([ways, good, fail]);
    if (word === this.drawn && this.cy.elements(".path").length) return;
    const before = this.drawn ? this.cy.elements(".path").jsons() : [];
    this.drawn = word;
    this.asked = [trace, good, fail];
    this.wipe();
    this.cy.batch(() => {
      const used = new Set();
      this.drawWay(trace.hops, "there", used);
      if (trace.back) this.drawWay(trace.back.hops, "back", used);
      for (const key of used) this.cy.getElementById(key).addClass("on-path");
      this.markEnd(trace, good);
      for (const key of this.through.get(fail)?.lines ?? [nodeKey(fail)]) {
        this.cy.getElementById(key).addClass("fails");
        used.add(key);
      }
      if (this.cy.nodes().length > 14)
        this.cy
          .elements()
          .filter((one) => !used.has(one.id()) && !one.hasClass("path") && !one.hasClass("down"))
          .addClass("aside");
    });
    const now = this.cy.elements(".path").jsons();
    if (!fail) this.base = now;
    this.leave(fail ? (this.base ?? []) : before, fail ? 0 : WAS_MS);
    this.labels.touch();
    this.flight.begin(this.cy.elements(".path").not(".was").toArray());
  }

  // The lines that the path has no more; those of the path without a failure stay.
  leave(before, ms) {
    clearTimeout(this.leaving);
    const now = new Set(
      this.cy.elements(".path").map((one) => `${one.data("source")} ${one.data("target")} ${one.hasClass("there")}`),
    );
    for (const { data, classes } of before) {
      const there = classes.includes("there");
      if (now.has(`${data.source} ${data.target} ${there}`)) continue;
      if (!this.cy.getElementById(data.source).length || !this.cy.getElementById(data.target).length) continue;
      const old = { ...data, id: `was ${data.source} ${data.target} ${there}` };
      if (this.cy.getElementById(old.id).length) continue;
      this.cy.add({ group: "edges", data: old, classes: `path was ${there ? "there" : "back"}`, selectable: false });
    }
    if (ms) this.leaving = setTimeout(() => this.cy.elements(".was").remove(), ms);
  }

  drawWay(hops, kind, used) {
    const at = hops.filter((hop) => hop.node_id !== null && hop.node_id !== undefined);
    for (const hop of at) used.add(nodeKey(hop.node_id));
    for (let n = 0; n + 1 < at.length; n++) {
      const [a, b] = [at[n].node_id, at[n + 1].node_id];
      if (a === b) continue;
      const way = this.wayOf(at[n], at[n + 1]);
      const stops = way?.island ? [nodeKey(a), islandKey(way.island), nodeKey(b)] : [nodeKey(a), nodeKey(b)];
      for (const line of way?.lines ?? []) {
        used.add(line);
        this.cy.getElementById(line).addClass("under");
      }
      for (const stop of stops) used.add(stop);
      for (let m = 0; m + 1 < stops.length; m++)
        this.drawStep(stops[m], stops[m + 1], m + 2 === stops.length ? `${kind} headed` : kind, `${kind} ${n} ${m}`);
    }
  }

  drawStep(source, target, classes, key) {
    const [a, b] = [source, target].map((one) => this.cy.getElementById(one));
    if (!a.length || !b.length) return;
    const [x, y] = [b.position("x") - a.position("x"), b.position("y") - a.position("y")];
    const far = (BESIDE * Math.min(this.thick, 2)) / Math.max(1, Math.hypot(x, y));
    const beside = `${(-y * far).toFixed(2)}px ${(x * far).toFixed(2)}px`; // on its right
    this.cy.add({
      group: "edges",
      data: { id: `p ${key}`, source, target, beside },
      classes: `path ${classes}`,
      selectable: false,
    });
  }

  /** As it is drawn now, after nodes were moved. */
  redraw() {
    if (!this.drawn) return;
    const [trace, good, fail] = this.asked;
    this.drawn = "";
    this.drawPath(trace, good, fail);
  }

  /** How a hop is drawn: through the link that it takes, else through an island of both nodes, else straight. */
  wayOf(hop, next) {
    const [a, b] = [hop.node_id, next.node_id];
    const fits = (id) => {
      const link = this.links.get(id);
      return link && [link.a.node, link.b.node].includes(a) && [link.a.node, link.b.node].includes(b);
    };
    const link = [hop.link_id, next.link_id].find(fits);
    if (link !== undefined) return this.through.get(link);
    const island = common(this.home, a, b);
    return island === null ? null : { island, lines: [memberKey(island, a), memberKey(island, b)] };
  }

  markEnd(trace, good) {
    const last = trace.hops.filter((hop) => hop.node_id).at(-1);
    if (last) this.cy.getElementById(nodeKey(last.node_id)).addClass(good ? "ends-good" : "ends-bad");
  }

  // --- looking around ---

  fit() {
    this.cy.resize();
    this.frame(this.cy.nodes().map((one) => one.position()));
  }

  frame(places) {
    const [width, height] = [this.container.clientWidth, this.container.clientHeight];
    const box = { x1: Infinity, x2: -Infinity, y1: Infinity, y2: -Infinity };
    for (const { x, y } of places) {
      box.x1 = Math.min(box.x1, x);
      box.x2 = Math.max(box.x2, x);
      box.y1 = Math.min(box.y1, y);
      box.y2 = Math.max(box.y2, y);
    }
    if (!width || !(box.x2 >= box.x1)) return;
    const { top, bottom, side } = margins(width);
    const [w, h] = [Math.max(60, width - 2 * side), Math.max(60, height - top - bottom)];
    const zoom = Math.min(1.6, w / Math.max(1, box.x2 - box.x1), h / Math.max(1, box.y2 - box.y1));
    this.cy.zoom(Math.max(this.cy.minZoom(), zoom));
    this.cy.pan({
      x: side + w / 2 - (this.cy.zoom() * (box.x1 + box.x2)) / 2,
      y: top + h / 2 - (this.cy.zoom() * (box.y1 + box.y2)) / 2,
    });
  }

  zoom(factor) {
    const [x, y] = [this.container.clientWidth / 2, this.container.clientHeight / 2];
    this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition: { x, y } });
  }

  choose(id) {
    const element = this.cy.getElementById(nodeKey(id));
    if (!element.length) return false;
    this.cy.$(":selected").unselect();
    element.select();
    const box = element.renderedBoundingBox();
    const outside =
      box.x1 < 0 || box.y1 < 0 || box.x2 > this.container.clientWidth || box.y2 > this.container.clientHeight;
    if (outside) this.cy.center(element);
    return true;
  }

  /** The node that lies next in a direction; the first one if none is chosen. */
  step(dx, dy) {
    const all = this.cy.nodes().filter((one) => one.data("node"));
    const from = this.cy.$("node:selected").filter((one) => one.data("node"))[0];
    if (!from) return all.length > 0 && this.choose(all[0].data("node"));
    let best = null;
    let least = Infinity;
    for (const one of all.toArray()) {
      const x = one.position("x") - from.position("x");
      const y = one.position("y") - from.position("y");
      const ahead = x * dx + y * dy;
      const beside = Math.abs(x * dy) + Math.abs(y * dx);
      if (ahead <= 1 || beside > ahead * 1.8) continue;
      const cost = ahead + beside * 1.5;
      if (cost < least) [least, best] = [cost, one];
    }
    return best !== null && this.choose(best.data("node"));
  }

  described(element) {
    if (element.data("node")) return { kind: "node", id: element.data("node") };
    if (element.data("island")) return { kind: "island", id: element.data("island") };
    const links = this.standsFor.get(element.id()) ?? [];
    return links.length ? { kind: "links", ids: links } : null;
  }
}
