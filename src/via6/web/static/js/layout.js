// Where nodes stand in the picture. The same network gives the same picture: no random numbers.
//
// First pivot MDS (Brandes and Pich 2006): distances in hops from a few pivots, projected on their two main axes, which
// takes milliseconds for a thousand nodes and shows the form of the network. Then forces for a moment, to part what
// came to lie on one place. What hangs on one router, its island and the hosts in that, takes no part in this: it is
// put close to its router, where there is most room, so that the routers and their links have the picture.

const PIVOTS = 40;
const STRETCHED = 30; // smaller networks keep their form
const MOST = 1.8;
const FAR = 1.6; // between parts that are not connected, in lengths of the largest way

/** ids: array; edges: array of [id, id]; returns Map id -> {x, y}, edges about `length` long. `ratio` is width by
    height of the place: for a phone the network is put on end, and a long one is drawn out to the sides. `minor` has
    what hangs on one other node, and the room that it takes, as a part of 1. */
export function arrange(ids, edges, ratio = 1.5, minor = new Map(), length = 90) {
  const index = new Map(ids.map((id, i) => [id, i]));
  const room = Float64Array.from(ids, (id) => minor.get(id) ?? 1);
  const near = ids.map(() => []);
  for (const [a, b] of edges) {
    const i = index.get(a);
    const j = index.get(b);
    if (i === undefined || j === undefined || i === j) continue;
    near[i].push(j);
    near[j].push(i);
  }
  const parts = components(near);
  const placed = new Float64Array(ids.length * 2);
  let left = 0;
  for (const part of parts) {
    const box = place(part, near, room, placed, length);
    for (const i of part) {
      placed[2 * i] += left - box.left;
      placed[2 * i + 1] -= (box.top + box.bottom) / 2;
    }
    left += box.right - box.left + FAR * length;
  }
  const [across, down] = ratio < 0.9 ? [1, 0] : [0, 1];
  const places = ids.map((_, i) => ({ x: placed[2 * i + across], y: placed[2 * i + down] }));
  stretch(places, ratio);
  return new Map(ids.map((id, i) => [id, places[i]]));
}

function stretch(places, ratio) {
  const wide = extent(places.map((one) => one.x));
  const high = extent(places.map((one) => one.y));
  if (places.length < STRETCHED || !wide || !high) return;
  const more = wide / high / ratio;
  for (const one of places) {
    if (more > 1) one.y *= Math.min(MOST, more);
    else one.x *= Math.min(MOST, 1 / more);
  }
}

const extent = (values) =>
  values.reduce((a, b) => Math.max(a, b), -Infinity) - values.reduce((a, b) => Math.min(a, b), Infinity);

function components(near) {
  const seen = new Uint8Array(near.length);
  const parts = [];
  for (let start = 0; start < near.length; start++) {
    if (seen[start]) continue;
    const part = [start];
    seen[start] = 1;
    for (let k = 0; k < part.length; k++) {
      for (const next of near[part[k]]) {
        if (!seen[next]) {
          seen[next] = 1;
          part.push(next);
        }
      }
    }
    parts.push(part);
  }
  return parts.sort((a, b) => b.length - a.length);
}

function place(part, near, room, out, length) {
  const core = coreOf(part, near, room);
  const within = new Set(core);
  const paths = core.length === part.length ? near : near.map((list) => list.filter((j) => within.has(j)));
  if (core.length > 2) project(core, paths, out, length);
  else
    core.forEach((i, k) => {
      out[2 * i] = k * length;
      out[2 * i + 1] = 0;
    });
  if (core.length > 2) relax(core, paths, room, out, length, 0.35, core.length > 400 ? 90 : 180);
  if (core.length < part.length) {
    attach(core, near, room, out, length);
    relax(part, near, room, out, length, 0.1, 50);
  }
  if (part.length > 2) turn(part, out);
  const box = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
  for (const i of part) {
    box.left = Math.min(box.left, out[2 * i]);
    box.right = Math.max(box.right, out[2 * i]);
    box.top = Math.min(box.top, out[2 * i + 1]);
    box.bottom = Math.max(box.bottom, out[2 * i + 1]);
  }
  return box;
}

// The part without what hangs on single nodes; all of it, where that would not hold together.
function coreOf(part, near, room) {
  const core = part.filter((i) => room[i] === 1);
  if (!core.length || core.length === part.length) return part;
  const seen = new Set([core[0]]);
  for (const i of seen) for (const j of near[i]) if (room[j] === 1) seen.add(j);
  return seen.size === core.length ? core : part;
}

// Puts what hangs on nodes that have a place beside them, into the widest gap between their other lines.
function attach(core, near, room, out, length) {
  const placed = new Set(core);
  let ring = core;
  while (ring.length) {
    const next = [];
    for (const i of ring) {
      const angles = near[i].filter((j) => placed.has(j)).map((j) => direction(i, j, out));
      for (const j of near[i]) {
        if (placed.has(j)) continue;
        const angle = widest(angles);
        const far = length * Math.sqrt(room[i] * room[j]);
        out[2 * j] = out[2 * i] + far * Math.cos(angle);
        out[2 * j + 1] = out[2 * i + 1] + far * Math.sin(angle);
        angles.push(angle);
        placed.add(j);
        next.push(j);
      }
    }
    ring = next;
  }
}

const direction = (i, j, out) => Math.atan2(out[2 * j + 1] - out[2 * i + 1], out[2 * j] - out[2 * i]);

// The middle of the widest gap between these angles.
function widest(angles) {
  if (!angles.length) return Math.PI;
  const sorted = [...angles].sort((a, b) => a - b);
  let best = 0;
  let most = -1;
  sorted.forEach((angle, n) => {
    const gap = (n + 1 < sorted.length ? sorted[n + 1] : sorted[0] + 2 * Math.PI) - angle;
    if (gap > most + 1e-6) [most, best] = [gap, angle + gap / 2];
  });
  return best;
}

function hops(start, near) {
  const distance = new Map([[start, 0]]);
  const queue = [start];
  for (let k = 0; k < queue.length; k++) {
    for (const next of near[queue[k]]) {
      if (!distance.has(next)) {
        distance.set(next, distance.get(queue[k]) + 1);
        queue.push(next);
      }
    }
  }
  return distance;
}

function project(part, near, out, length) {
  const n = part.length;
  const k = Math.min(PIVOTS, n);
  const columns = [];
  let pivot = part[0];
  const nearest = new Map(part.map((i) => [i, Infinity]));
  for (let c = 0; c < k; c++) {
    const distance = hops(pivot, near);
    columns.push(part.map((i) => distance.get(i) ** 2));
    let best = -1;
    for (const i of part) {
      nearest.set(i, Math.min(nearest.get(i), distance.get(i)));
      if (nearest.get(i) > best) {
        best = nearest.get(i);
        pivot = i; // the next one is as far from all others as can be
      }
    }
  }
  centre(columns, n, k);
  const first = axis(columns, n, k, null);
  const second = axis(columns, n, k, first);
  const x = along(columns, first, n, k);
  const y = along(columns, second, n, k);
  // Scaled so that neighbours are one length apart on average.
  let sum = 0;
  let number = 0;
  const position = new Map(part.map((i, p) => [i, p]));
  part.forEach((i, p) => {
    for (const j of near[i]) {
      const q = position.get(j);
      sum += Math.hypot(x[p] - x[q], y[p] - y[q]);
      number++;
    }
  });
  const scale = sum > 1e-9 ? (length * number) / sum : 1;
  part.forEach((i, p) => {
    // A golden angle apart, what lies on one place can be parted by forces.
    out[2 * i] = x[p] * scale + 3 * Math.cos(2.39996 * p);
    out[2 * i + 1] = y[p] * scale + 3 * Math.sin(2.39996 * p);
  });
}

function centre(columns, n, k) {
  const rows = new Float64Array(n);
  let all = 0;
  const means = columns.map((column) => column.reduce((a, b) => a + b, 0) / n);
  for (let p = 0; p < n; p++) {
    for (let c = 0; c < k; c++) rows[p] += columns[c][p] / k;
    all += rows[p] / n;
  }
  for (let c = 0; c < k; c++)
    for (let p = 0; p < n; p++) columns[c][p] = -0.5 * (columns[c][p] - rows[p] - means[c] + all);
}

function axis(columns, n, k, other) {
  let vector = Float64Array.from({ length: k }, (_, c) => 1 + (c % 7) / 10);
  for (let round = 0; round < 60; round++) {
    if (other) {
      const dot = vector.reduce((sum, value, c) => sum + value * other[c], 0);
      vector = vector.map((value, c) => value - dot * other[c]);
    }
    const shadow = along(columns, vector, n, k);
    const next = Float64Array.from({ length: k }, (_, c) => {
      let sum = 0;
      for (let p = 0; p < n; p++) sum += columns[c][p] * shadow[p];
      return sum;
    });
    const size = Math.hypot(...next);
    if (size < 1e-12) return vector;
    vector = next.map((value) => value / size);
  }
  return vector;
}

function along(columns, vector, n, k) {
  const out = new Float64Array(n);
  for (let c = 0; c < k; c++) for (let p = 0; p < n; p++) out[p] += columns[c][p] * vector[c];
  return out;
}

// Fruchterman and Reingold, with a grid: only what is near pushes. Two nodes are at rest where they are the length
// apart, or less if they need less room.
function relax(part, near, room, out, length, warmth, rounds) {
  const reach = length * 2.2;
  const dx = new Float64Array(out.length / 2);
  const dy = new Float64Array(out.length / 2);
  const cell = new Int32Array(out.length / 2);
  const after = new Int32Array(out.length / 2); // in the same cell
  for (let round = 0; round < rounds; round++) {
    const heat = length * warmth * (1 - round / rounds);
    const grid = gridOf(part, out, reach, cell, after);
    for (const i of part) {
      let [fx, fy] = [0, 0];
      for (const shift of grid.around) {
        for (let j = grid.first[cell[i] + shift]; j >= 0; j = after[j]) {
          if (j === i) continue;
          const x = out[2 * i] - out[2 * j] || (i - j) * 1e-3;
          const y = out[2 * i + 1] - out[2 * j + 1] || (j - i) * 1e-3;
          const far = Math.max(1, x * x + y * y);
          if (far > reach * reach) continue;
          const push = (length * length * room[i] * room[j]) / far;
          fx += x * push;
          fy += y * push;
        }
      }
      for (const j of near[i]) {
        const x = out[2 * j] - out[2 * i];
        const y = out[2 * j + 1] - out[2 * i + 1];
        const pull = Math.hypot(x, y) / (length * Math.sqrt(room[i] * room[j]));
        fx += x * pull;
        fy += y * pull;
      }
      dx[i] = fx;
      dy[i] = fy;
    }
    for (const i of part) {
      const size = Math.hypot(dx[i], dy[i]);
      if (size < 1e-9) continue;
      const step = Math.min(size, heat) / size;
      out[2 * i] += dx[i] * step;
      out[2 * i + 1] += dy[i] * step;
    }
  }
}

// Who is in which cell of `reach`: the first of each, and by `after` all others. An empty cell is around all.
function gridOf(part, out, reach, cell, after) {
  const low = [Infinity, Infinity];
  let across = 0;
  for (const i of part) for (const axis of [0, 1]) low[axis] = Math.min(low[axis], out[2 * i + axis]);
  for (const i of part) across = Math.max(across, Math.floor((out[2 * i] - low[0]) / reach));
  const width = across + 3;
  let last = 0;
  for (const i of part) {
    cell[i] = (Math.floor((out[2 * i + 1] - low[1]) / reach) + 1) * width + Math.floor((out[2 * i] - low[0]) / reach) + 1;
    last = Math.max(last, cell[i]);
  }
  const first = new Int32Array(last + width + 2).fill(-1);
  for (let n = part.length - 1; n >= 0; n--) {
    const i = part[n];
    after[i] = first[cell[i]];
    first[cell[i]] = i;
  }
  return { first, around: [-width - 1, -width, -width + 1, -1, 0, 1, width - 1, width, width + 1] };
}

// The longest axis lies flat: screens are wide.
function turn(part, out) {
  let mx = 0;
  let my = 0;
  for (const i of part) {
    mx += out[2 * i] / part.length;
    my += out[2 * i + 1] / part.length;
  }
  let xx = 0;
  let yy = 0;
  let xy = 0;
  for (const i of part) {
    const x = out[2 * i] - mx;
    const y = out[2 * i + 1] - my;
    xx += x * x;
    yy += y * y;
    xy += x * y;
  }
  const angle = -0.5 * Math.atan2(2 * xy, xx - yy);
  const c = Math.cos(angle);
  const s = Math.sin(angle);
  const flip = (out[2 * part[0]] - mx) * c - (out[2 * part[0] + 1] - my) * s > 0 ? -1 : 1; // the first node is left
  for (const i of part) {
    const x = out[2 * i] - mx;
    const y = out[2 * i + 1] - my;
    out[2 * i] = flip * (x * c - y * s);
    out[2 * i + 1] = flip * (x * s + y * c);
  }
}
