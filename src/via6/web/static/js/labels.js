// What is written in the picture, on a canvas above it: always as large as on the page, however far the picture is
// zoomed out, and no two words over each other. Where there is no room for all, what matters most is written: what is
// chosen, the path, what is wrong, routers, and last hosts and costs.

const BOLD = 600;
const RINGS = ["wrong", "warned", "ends-good", "ends-bad"];
const GAP = 5;
const CELL = 64;
const TOOLS = 58; // over the upper edge of the picture
const CLEAR = 12; // between words and the lines of their node
const NEAR = 0.44; // zoomed out further, islands and hosts have no names

export const RANKS = { chosen: 0, path: 1, wrong: 2, router: 3, island: 4, host: 5, cost: 6 };

/** Boxes that are taken, in a grid. */
class Taken {
  constructor() {
    this.cells = new Map();
  }

  *keys(box) {
    for (let x = Math.floor(box.x1 / CELL); x <= Math.floor(box.x2 / CELL); x++)
      for (let y = Math.floor(box.y1 / CELL); y <= Math.floor(box.y2 / CELL); y++) yield x * 65536 + y;
  }

  add(box) {
    for (const key of this.keys(box)) {
      const held = this.cells.get(key);
      if (held) held.push(box);
      else this.cells.set(key, [box]);
    }
  }

  free(box) {
    for (const key of this.keys(box))
      for (const one of this.cells.get(key) ?? [])
        if (box.x1 < one.x2 && one.x1 < box.x2 && box.y1 < one.y2 && one.y1 < box.y2) return false;
    return true;
  }
}

// Does the line from (ax, ay) to (bx, by) cross the box? By Liang and Barsky.
function crosses(box, ax, ay, bx, by) {
  let from = 0;
  let to = 1;
  for (const [step, room] of [
    [ax - bx, ax - box.x1],
    [bx - ax, box.x2 - ax],
    [ay - by, ay - box.y1],
    [by - ay, box.y2 - ay],
  ]) {
    if (step === 0) {
      if (room < 0) return false;
    } else if (step < 0) from = Math.max(from, room / step);
    else to = Math.min(to, room / step);
  }
  return from < to;
}

export class Labels {
  /** `written(element)` gives { rank, lines: [{ text, colour, bold, mono, size }] } or null. */
  constructor(container, cy, written) {
    Object.assign(this, { container, cy, written });
    this.canvas = document.createElement("canvas");
    this.canvas.className = "words";
    container.append(this.canvas);
    this.pen = this.canvas.getContext("2d");
    this.measured = new Map();
    this.stale = true;
    this.zoom = 0;
    this.placed = [];
    cy.on("render", () => this.draw());
  }

  /** Something is written otherwise, or elsewhere, from now on. */
  touch() {
    this.stale = true;
    this.cy.forceRender();
  }

  /** The colours have changed. */
  restyle(c) {
    this.c = c;
    this.stale = true;
  }

  draw() {
    const [width, height] = [this.container.clientWidth, this.container.clientHeight];
    const dense = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * dense) || this.canvas.height !== Math.round(height * dense)) {
      this.canvas.width = Math.round(width * dense);
      this.canvas.height = Math.round(height * dense);
    }
    const zoom = this.cy.zoom();
    if (this.stale || zoom !== this.zoom) this.place(zoom);
    const { x, y } = this.cy.pan();
    const pen = this.pen;
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.translate(x, y);
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    for (const { box, label, aside } of this.placed) {
      if (box.x2 + x < 0 || box.y2 + y < 0 || box.x1 + x > width || box.y1 + y > height) continue;
      pen.globalAlpha = aside ? 0.6 : 1;
      let top = box.y1;
      for (const line of label.lines) {
        pen.font = this.font(line);
        const at = box.side === "right" ? box.x1 : box.side === "left" ? box.x2 : (box.x1 + box.x2) / 2;
        pen.textAlign = box.side === "right" ? "left" : box.side === "left" ? "right" : "center";
        pen.strokeStyle = this.c("paper");
        pen.lineWidth = 4;
        pen.strokeText(line.text, at, top + line.size * 0.62);
        pen.fillStyle = this.c(line.colour);
        pen.fillText(line.text, at, top + line.size * 0.62);
        top += line.size * 1.25;
      }
    }
    pen.globalAlpha = 1;
  }

  font({ size, bold, mono }) {
    return `${bold ? BOLD : 400} ${size}px ${this.c(mono ? "mono" : "sans")}`;
  }

  wide(line) {
    const key = `${line.size} ${line.bold} ${line.mono} ${line.text}`;
    let width = this.measured.get(key);
    if (width === undefined) {
      this.pen.font = this.font(line);
      width = this.pen.measureText(line.text).width;
      if (this.measured.size > 20000) this.measured.clear();
      this.measured.set(key, width);
    }
    return width;
  }

  gather() {
    this.list = [];
    this.cy.elements().forEach((element) => {
      const label = this.written(element);
      if (!label) return;
      label.width = Math.max(...label.lines.map((line) => this.wide(line)));
      label.height = label.lines.reduce((sum, line) => sum + line.size * 1.25, 0);
      const node = element.isNode();
      const ring = RINGS.some((name) => element.hasClass(name)) ? 4 : 0;
      const size = node ? [element.width() / 2 + ring, element.height() / 2 + ring] : null;
      const near = node ? element.connectedEdges().map((edge) => [edge.source(), edge.target()]) : [];
      this.list.push({ element, label, size, near, aside: element.hasClass("aside") });
    });
    this.list.sort((a, b) => a.label.rank - b.label.rank);
    this.bodies = this.cy.nodes().map((one) => [one, one.width() / 2 + 1, one.height() / 2 + 1]);
    this.stale = false;
  }

  // Where each label stands, for this zoom; the pan moves them all. Of the places for one, those within the view are
  // better, as it is now.
  place(zoom) {
    if (this.stale) this.gather();
    this.zoom = zoom;
    this.placed = [];
    const { x, y } = this.cy.pan();
    this.view = { x1: -x, x2: this.container.clientWidth - x, y1: TOOLS - y, y2: this.container.clientHeight - y };
    const taken = new Taken();
    const at = (one) => ({ x: one.position("x") * zoom, y: one.position("y") * zoom });
    for (const [one, w, h] of this.bodies) {
      const { x, y } = at(one);
      taken.add({ x1: x - w * zoom, x2: x + w * zoom, y1: y - h * zoom, y2: y + h * zoom });
    }
    for (const { element, label, size, near, aside } of this.list) {
      if (zoom < NEAR && label.rank >= RANKS.island) continue;
      const ways = size ? this.tries(label) : [[label, true]];
      for (const [one, force] of ways) {
        const box = size
          ? this.beside(at(element), size, zoom, one, near, at, taken, force)
          : this.along(element, at, one, taken);
        if (!box) continue;
        taken.add(box);
        this.placed.push({ box, label: one, aside });
        break;
      }
    }
  }

  // All of it where there is room, else the name; what matters is written over others if need be.
  tries(label) {
    if (label.lines.length === 1) return [[label, label.rank <= RANKS.wrong]];
    const name = { rank: label.rank, lines: label.lines.slice(0, 1) };
    name.width = this.wide(name.lines[0]);
    name.height = name.lines[0].size * 1.25;
    return label.rank <= RANKS.path
      ? [[label, true]]
      : [
          [label, false],
          [name, label.rank <= RANKS.wrong],
        ];
  }

  beside({ x, y }, [w, h], zoom, label, near, at, taken, force) {
    const [across, down] = [w * zoom + GAP, h * zoom + GAP];
    const lines = near.map(([a, b]) => [at(a), at(b)]);
    const half = label.width / 2;
    let best = null;
    let least = Infinity;
    for (const [n, [side, x1, y1]] of [
      ["below", x - half, y + down],
      ["right", x + across, y - label.height / 2],
      ["above", x - half, y - down - label.height],
      ["left", x - across - label.width, y - label.height / 2],
    ].entries()) {
      const box = { side, x1, y1, x2: x1 + label.width, y2: y1 + label.height };
      const free = taken.free(box);
      if (!free && !force) continue;
      const crossed = (one) => lines.filter(([a, b]) => crosses(one, a.x, a.y, b.x, b.y)).length;
      const around = { x1: x1 - CLEAR, x2: box.x2 + CLEAR, y1, y2: box.y2 };
      const { view } = this;
      const out = Math.max(0, view.x1 - x1, box.x2 - view.x2, view.y1 - y1, box.y2 - view.y2);
      const cost = (free ? 0 : 100) + 5 * crossed(box) + 1.6 * crossed(around) + n + Math.min(20, out);
      if (cost < least) [least, best] = [cost, box];
    }
    return best;
  }

  along(edge, at, label, taken) {
    const [a, b] = [at(edge.source()), at(edge.target())];
    if (Math.hypot(a.x - b.x, a.y - b.y) < label.width && label.rank > RANKS.wrong) return null;
    const [x, y] = [(a.x + b.x) / 2, (a.y + b.y) / 2];
    const box = {
      side: "over",
      x1: x - label.width / 2,
      x2: x + label.width / 2,
      y1: y - label.height / 2,
      y2: y + label.height / 2,
    };
    return taken.free(box) || label.rank <= RANKS.wrong ? box : null;
  }
}
