// The picture's style, of the page's own colours.

const colour = (style, name) => style.getPropertyValue(`--${name}`).trim();

/** A style sheet for cytoscape; `thick`: so many times the width, where the picture is drawn small;
    `aside`: names stand beside their nodes, where the network stands on end. */
export function look(large, thick = 1, aside = false) {
  const style = getComputedStyle(document.documentElement);
  const c = (name) => colour(style, name);
  const font = colour(style, "sans");
  const size = Math.min(thick, 2);
  const text = {
    "font-family": font,
    "font-size": 13,
    color: c("ink"),
    "text-outline-color": c("paper"),
    "text-outline-width": 2.5,
  };
  return [
    {
      selector: "node",
      style: {
        ...text,
        label: "data(label)",
        ...(aside
          ? { "text-valign": "center", "text-halign": "right", "text-margin-x": 6 }
          : { "text-valign": "bottom", "text-margin-y": 5 }),
        "text-wrap": "wrap",
        "min-zoomed-font-size": large ? 7 : 5,
        "border-width": 2 * size,
        "overlay-opacity": 0,
        "text-max-width": 180,
      },
    },
    {
      selector: ".router, .unknown-kind",
      style: {
        shape: "round-rectangle",
        width: 38 * size,
        height: 26 * size,
        "background-color": c("router"),
        "border-color": c("router-edge"),
      },
    },
    {
      selector: ".host",
      style: {
        shape: "ellipse",
        width: 26 * size,
        height: 26 * size,
        "background-color": c("host"),
        "border-color": c("host-edge"),
      },
    },
    {
      selector: ".segment",
      style: { shape: "rectangle", width: 46, height: 7, "background-color": c("line6"), "border-width": 0 },
    },
    {
      selector: ".island",
      style: {
        shape: "hexagon",
        width: 34 * size,
        height: 24 * size,
        "background-color": c("island"),
        "border-color": c("island-edge"),
        "font-size": 12,
        "font-family": colour(style, "mono"),
      },
    },
    {
      selector: "edge",
      style: {
        ...text,
        "font-size": 11,
        label: "data(label)",
        width: 2.5 * thick,
        "curve-style": "bezier",
        "line-color": c("line6"),
        "min-zoomed-font-size": 8,
        "overlay-opacity": 0,
        "text-background-color": c("paper"),
        "text-background-opacity": 0.9,
        "text-background-padding": 2,
        "text-outline-width": 0,
        color: c("soft"),
      },
    },
    { selector: ".ipv4", style: { "line-color": c("line4"), width: 4 * thick } },
    { selector: ".member", style: { "line-color": c("line4"), width: 2 * thick } },
    { selector: "edge.unknown", style: { "line-style": "dotted", "line-color": c("unknown") } },
    {
      selector: "edge.down",
      style: {
        "line-style": "dashed",
        "line-color": c("bad"),
        width: 3.5 * thick,
        color: c("bad"),
        "font-size": 13,
        "font-weight": "bold",
        "min-zoomed-font-size": 5,
        "z-index": 5,
      },
    },
    {
      selector: "node.down",
      style: { "border-color": c("bad"), "border-style": "dashed", "border-width": 3.5, color: c("bad") },
    },
    { selector: "node.unknown", style: { "border-style": "dotted" } },
    { selector: ".wrong", style: { "border-color": c("bad"), "border-width": 3.5 } },
    { selector: ".warned", style: { "border-color": c("warn"), "border-width": 3.5 } },
    {
      selector: "node:selected",
      style: { "underlay-color": c("accent"), "underlay-opacity": 0.35, "underlay-padding": 9 },
    },
    {
      selector: "edge:selected",
      style: { "underlay-color": c("accent"), "underlay-opacity": 0.3, "underlay-padding": 6 },
    },
    { selector: ".pulse", style: { "underlay-color": c("pulse"), "underlay-opacity": 0.55, "underlay-padding": 11 } },
    { selector: "edge.under", style: { "text-opacity": 0, "text-background-opacity": 0 } },
    { selector: "edge.under.down, edge.under.fails", style: { "text-opacity": 1 } },
    {
      selector: ".fails",
      style: {
        opacity: 0.75,
        "line-style": "dashed",
        "line-color": c("bad"),
        "border-style": "dashed",
        "border-color": c("bad"),
        color: c("bad"),
      },
    },
    { selector: "edge.fails", style: { label: "✕ fails", "text-opacity": 1 } },
    { selector: ".aside", style: { opacity: 0.4 } },
    {
      selector: ".path",
      style: {
        "curve-style": "unbundled-bezier",
        "control-point-distances": "data(bend)",
        "control-point-weights": 0.5,
        width: 4.5 * thick,
        "target-arrow-shape": "triangle",
        "arrow-scale": 1.1,
        "z-index": 10,
        label: "",
        events: "no",
      },
    },
    {
      selector: ".there",
      style: { "line-color": c("there"), "target-arrow-color": c("there"), "line-style": "solid" },
    },
    {
      selector: ".back",
      style: {
        "line-color": c("back"),
        "target-arrow-color": c("back"),
        "line-style": "dashed",
        "line-dash-pattern": [9, 5],
      },
    },
    { selector: ".ends-good", style: { "border-color": c("good"), "border-width": 4 } },
    {
      selector: ".ends-bad",
      style: { "border-color": c("bad"), "border-width": 5, color: c("bad"), "font-weight": "bold" },
    },
  ];
}
