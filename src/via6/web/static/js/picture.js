// The network as a picture: nodes, links, and the IPv4 islands as nodes of their own between those who are in them.
// What there is to draw is worked out in scene.js.

import cytoscape from "/vendor/cytoscape/cytoscape.js";
import { brief, count, soon } from "./dom.js";
import { arrange } from "./layout.js";
import { look } from "./look.js";
import { common, islandKey, memberKey, nodeKey, sceneOf } from "./scene.js";

const PULSE_MS = 1600;
const LARGE = 120;
const BEND = 15;
const TOOLS = 45;

// A large network drawn small: lines and nodes stay visible.
const thickness = (zoom) =>
  [
    [0.2, 3.2],
    [0.35, 2.2],
    [0.6, 1.5],
  ].find(([below]) => zoom < below)?.[1] ?? 1;

// Each setting makes cytoscape work the style out again.
function set(element, name, value) {
  if (element.data(name) !== value) element.data(name, value);
}

export class Picture {
  constructor(container, { chosen, opened }) {
    this.container = container;
    this.network = null;
    this.links = new Map(); // id -> link
    this.through = new Map(); // id of a link -> the keys of the lines that stand for it
    this.standsFor = new Map(); // key of a line -> ids of links
    this.pulses = new Map();
    this.known = "";
    container.querySelector(".waiting")?.remove();
    this.cy = cytoscape({
      container,
      elements: [],
      style: look(false),
      minZoom: 0.08,
      maxZoom: 3.5,
      boxSelectionEnabled: false,
      selectionType: "single",
    });
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

  restyle(zoom = this.cy.zoom(), number = this.cy.nodes().length) {
    this.thick = thickness(zoom);
    this.cy.style(look(number > LARGE, this.thick, this.ratio() < 0.9));
  }

  // --- the network ---

  /** Shows this network. What was there before keeps its place. */
  show(network) {
    this.network = network;
    this.links = new Map(network.links.map((one) => [one.id, one]));
    const { elements, through, standsFor, home } = sceneOf(network);
    Object.assign(this, { through, standsFor, home });
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
    this.known = form;
  }

  rebuild(elements, first) {
    const places = new Map(this.cy.nodes().map((one) => [one.id(), { ...one.position() }]));
    const nodes = elements.filter((one) => one.group === "nodes").map((one) => one.data.id);
    const edges = elements.filter((one) => one.group === "edges").map((one) => [one.data.source, one.data.target]);
    const kept = nodes.filter((id) => places.has(id)).length;
    // A few that are new stand beside their neighbours; many new ones are a new picture.
    const arranged =
      kept > nodes.length * 0.7 ? this.beside(nodes, edges, places) : arrange(nodes, edges, this.ratio());
    this.cy.elements().remove();
    // The style stands before the elements come: working it out twice takes longer than all else.
    if (first) {
      this.frame(arranged.values());
      this.restyle(this.cy.zoom(), nodes.length);
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
    const lines = element.hasClass("segment") ? [] : [brief(node.name, 26)];
    if (node.state === "down") lines.push("✕ down");
    if (error) lines.push(`▲ ${count(error, "error")}`);
    else if (warning) lines.push(`△ ${count(warning, "warning")}`);
    set(element, "label", lines.join("\n"));
    element.toggleClass("down", node.state === "down").toggleClass("unknown", node.state === "unknown");
    element.toggleClass("wrong", error > 0).toggleClass("warned", !error && warning > 0);
  }

  paintLine(key) {
    const links = this.standsFor.get(key).map((id) => this.links.get(id));
    const element = this.cy.getElementById(key);
    const every = (state) => links.length > 0 && links.every((one) => one.state === state);
    element.toggleClass("down", every("down")).toggleClass("unknown", every("unknown"));
    const cost =
      links.length === 1 && links[0].cost !== null && links[0].cost !== undefined && element.data("link")
        ? `cost ${links[0].cost}`
        : "";
    set(element, "label", every("down") ? "✕ down" : cost);
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
    this.cy.batch(() => {
      this.cy.elements(".path").remove();
      this.cy.elements().removeClass("aside under ends-good ends-bad fails");
    });
  }

  /** Draws the way there (solid) and back (dashed) of a trace; `fail` is what has failed in it. */
  drawPath(trace, good, fail = "") {
    this.clearPath();
    this.cy.batch(() => {
      const used = new Set();
      this.drawWay(trace.hops, "there", used);
      if (trace.back) this.drawWay(trace.back.hops, "back", used);
      this.markEnd(trace, good);
      for (const key of this.through.get(fail)?.lines ?? [nodeKey(fail)]) this.cy.getElementById(key).addClass("fails");
      if (this.cy.nodes().length > 14)
        this.cy
          .elements()
          .filter((one) => !used.has(one.id()) && !one.hasClass("path") && !one.hasClass("down"))
          .addClass("aside");
    });
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
      for (let m = 0; m + 1 < stops.length; m++) this.drawStep(stops[m], stops[m + 1], kind, n, m);
    }
  }

  drawStep(source, target, kind, n, m) {
    if (!this.cy.getElementById(source).length || !this.cy.getElementById(target).length) return;
    this.cy.add({
      group: "edges",
      data: { id: `p ${kind} ${n} ${m}`, source, target, bend: BEND, label: "" },
      classes: `path ${kind}`,
      selectable: false,
    });
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
      box.x1 = Math.min(box.x1, x - 60); // with what is written below a node
      box.x2 = Math.max(box.x2, x + 60);
      box.y1 = Math.min(box.y1, y - 20);
      box.y2 = Math.max(box.y2, y + 45);
    }
    box.w = box.x2 - box.x1;
    box.h = box.y2 - box.y1;
    if (!width || !(box.w > 0)) return;
    const edge = Math.min(20, width / 20);
    const top = TOOLS + edge; // the tools lie over the upper edge
    const zoom = Math.min(1.5, (width - 2 * edge) / box.w, (height - top - edge) / Math.max(1, box.h));
    this.cy.zoom(Math.max(this.cy.minZoom(), zoom));
    this.cy.pan({
      x: width / 2 - zoom * (box.x1 + box.w / 2),
      y: top + (height - top - edge) / 2 - zoom * (box.y1 + box.h / 2),
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
