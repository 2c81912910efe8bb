// What is to be drawn of a network: nodes, islands, and lines. Knows nothing of the screen.
//
// A link within an island is drawn through the island's sign, as engineers draw a LAN: the lines to it stand for the
// link. A segment of many nodes comes from the server as a node in the middle; within an island the island's sign is
// that.

export const nodeKey = (id) => `n ${id}`;
export const islandKey = (id) => `i ${id}`;
export const linkKey = (id) => `l ${id}`;
export const memberKey = (island, node) => `m ${island} ${node}`;

const isSegment = (node) => node.kind === "unknown" && node.software === "link";

function classOf(node) {
  if (isSegment(node)) return "segment";
  return node.kind === "unknown" ? "unknown-kind" : node.kind;
}

/** { elements, through, standsFor, home, minor }: cytoscape's elements; for the id of a link its { island, lines }; for the key of a
    line the ids of the links that it stands for. `home` has the islands of each node; `minor` what hangs on one router,
    and its part of the room of a node. */
export function sceneOf(network) {
  const home = new Map(network.nodes.map((one) => [one.id, new Set()]));
  for (const island of network.islands) for (const id of island.nodes) home.get(id)?.add(island.id);
  const middles = middlesOf(network, home);
  const scene = { elements: [], through: new Map(), standsFor: new Map(), home };
  for (const node of network.nodes) {
    if (middles.has(node.id)) continue;
    scene.elements.push({
      group: "nodes",
      data: { id: nodeKey(node.id), node: node.id, },
      classes: classOf(node),
    });
  }
  for (const island of network.islands) addIsland(scene, island);
  for (const link of network.links) addLink(scene, link, middles);
  scene.minor = minorOf(scene);
  return scene;
}

const ISLAND_ROOM = 0.4;
const HOST_ROOM = 0.6;

// What hangs on a single router: an island that no other router is in, and hosts that lead nowhere else.
function minorOf({ elements }) {
  const kind = new Map();
  const near = new Map();
  for (const { group, data, classes } of elements) {
    if (group === "nodes") {
      kind.set(data.id, classes);
      near.set(data.id, new Set());
    } else {
      near.get(data.source).add(data.target);
      near.get(data.target).add(data.source);
    }
  }
  const minor = new Map();
  const routers = (id) => [...near.get(id)].filter((one) => kind.get(one) !== "host").length;
  for (const [id, what] of kind) if (what === "island" && routers(id) === 1) minor.set(id, ISLAND_ROOM);
  for (const [id, what] of kind) if (what === "host" && near.get(id).size === 1) minor.set(id, HOST_ROOM);
  // An island of hosts in two others, or of none that stays, holds the picture together.
  for (const id of [...minor.keys()]) {
    const others = [...near.get(id)].filter((one) => kind.get(one) === "host" && !minor.has(one));
    if (others.length) minor.delete(id);
  }
  return minor;
}

// Segments that are an island: middle -> island.
function middlesOf(network, home) {
  const found = new Map();
  for (const node of network.nodes.filter(isSegment)) {
    const links = network.links.filter((one) => one.a.node === node.id || one.b.node === node.id);
    const sets = links.map((one) => home.get(one.a.node === node.id ? one.b.node : one.a.node) ?? new Set());
    const common =
      links.every((one) => one.ipv4) && [...(sets[0] ?? [])].filter((one) => sets.every((all) => all.has(one)));
    if (common && common.length) found.set(node.id, common.sort()[0]);
  }
  return found;
}

function addIsland(scene, island) {
  const data = { id: islandKey(island.id), island: island.id };
  scene.elements.push({ group: "nodes", data, classes: "island" });
  for (const id of island.nodes.filter((node) => scene.home.has(node))) {
    const key = memberKey(island.id, id);
    scene.standsFor.set(key, []);
    scene.elements.push({
      group: "edges",
      data: { id: key, source: islandKey(island.id), target: nodeKey(id), },
      classes: "member",
    });
  }
}

function addLink(scene, link, middles) {
  const [a, b] = [link.a.node, link.b.node];
  if (!scene.home.has(a) || !scene.home.has(b)) return;
  const island = middles.get(a) ?? middles.get(b) ?? (link.ipv4 ? common(scene.home, a, b) : null);
  const ends = [a, b].filter((one) => !middles.has(one));
  const lines = island === null ? [linkKey(link.id)] : ends.map((one) => memberKey(island, one));
  scene.through.set(link.id, { island, lines });
  if (island === null) {
    scene.standsFor.set(linkKey(link.id), []);
    scene.elements.push({
      group: "edges",
      data: { id: linkKey(link.id), link: link.id, source: nodeKey(a), target: nodeKey(b), },
      classes: link.ipv4 ? "ipv4" : "ipv6",
    });
  }
  for (const line of lines) scene.standsFor.get(line).push(link.id);
}

/** An island that both nodes are in, or null. */
export function common(home, a, b) {
  const both = [...(home.get(a) ?? [])].filter((one) => home.get(b)?.has(one));
  return both.sort()[0] ?? null;
}

/** The cost that most links have, or null where they differ too much for that. */
export function usualCost(network) {
  const seen = new Map();
  let all = 0;
  for (const { cost } of network.links) {
    if (cost === null || cost === undefined) continue;
    seen.set(cost, (seen.get(cost) ?? 0) + 1);
    all++;
  }
  const [most] = [...seen].sort((a, b) => b[1] - a[1]);
  return most && most[1] > all / 2 ? most[0] : null;
}
