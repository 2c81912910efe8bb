// A packet that flies the way that is drawn, there and back, once: it shows which way is which. Who wants no motion
// gets none.

const SPEED = 0.42; // of a screen's pixels in a millisecond
const LEAST_MS = 120; // for a hop
const MOST_MS = 4000; // for all
const RADIUS = 7;

export class Flight {
  constructor(container, cy, colours) {
    Object.assign(this, { container, cy, colours });
    this.frame = 0;
    this.canvas = null;
  }

  stop() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.canvas?.remove();
    this.canvas = null;
  }

  /** Along these edges of the picture, each of a class that is the name of its colour. */
  begin(edges) {
    this.stop();
    if (!edges.length || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const steps = edges.map((edge) => this.step(edge));
    const zoom = this.cy.zoom();
    for (const one of steps) one.ms = Math.max(LEAST_MS, (one.length * zoom) / SPEED);
    const whole = steps.reduce((sum, one) => sum + one.ms, 0);
    const faster = Math.max(1, whole / MOST_MS);
    for (const one of steps) one.ms /= faster;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "words";
    this.container.append(this.canvas);
    const began = performance.now();
    const tick = (now) => {
      if (!this.fly(steps, now - began)) return this.stop();
      this.frame = requestAnimationFrame(tick);
    };
    this.frame = requestAnimationFrame(tick);
  }

  step(edge) {
    const [x, y] = edge.data("beside").split(" ").map(Number.parseFloat);
    const [a, b] = [edge.source(), edge.target()].map((one) => ({ x: one.position("x") + x, y: one.position("y") + y }));
    return { a, b, length: Math.hypot(b.x - a.x, b.y - a.y), colour: edge.hasClass("back") ? "back" : "there" };
  }

  fly(steps, spent) {
    let left = spent;
    const step = steps.find((one) => {
      if (left < one.ms) return true;
      left -= one.ms;
      return false;
    });
    if (!step || !this.canvas) return false;
    const part = left / step.ms;
    const { a, b } = step;
    this.dot(a.x + (b.x - a.x) * part, a.y + (b.y - a.y) * part, step.colour);
    return true;
  }

  dot(x, y, colour) {
    const [width, height, dense] = [this.container.clientWidth, this.container.clientHeight, devicePixelRatio || 1];
    if (this.canvas.width !== Math.round(width * dense) || this.canvas.height !== Math.round(height * dense)) {
      this.canvas.width = Math.round(width * dense);
      this.canvas.height = Math.round(height * dense);
    }
    const pen = this.canvas.getContext("2d");
    const pan = this.cy.pan();
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.beginPath();
    pen.arc(x * this.cy.zoom() + pan.x, y * this.cy.zoom() + pan.y, RADIUS, 0, 2 * Math.PI);
    pen.fillStyle = this.colours(colour);
    pen.strokeStyle = this.colours("paper");
    pen.lineWidth = 3;
    pen.fill();
    pen.stroke();
  }
}
