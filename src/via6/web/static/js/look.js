// The picture's style, of the page's own colours. What is written in the picture is not here: see labels.js.

import { sign } from "./signs.js";

/** The page's colours, and its fonts, by name. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

const FAR = 2; // drawn so small, a sign is a blot

const node = (c, name, shape, width, height, thick) => ({
  shape,
  width,
  height,
  "background-color": c(name),
  "border-color": c(`${name}-edge`),
  "background-image": thick > FAR ? "none" : sign(name, c(`${name}-ink`)),
  "background-fit": "contain",
  "background-width": "100%",
  "background-height": "100%",
});

const ringed = (colour, width) => ({ "outline-color": colour, "outline-width": width, "outline-offset": 2 });

/** A style sheet for cytoscape; `thick`: so many times the width, where the picture is drawn small. */
export function look(thick = 1) {
  const c = palette();
  const size = Math.min(thick, 1.6);
  return [
    { selector: "node", style: { "border-width": 2 * size, "overlay-opacity": 0 } },
    {
      selector: ".router, .unknown-kind",
      style: node(c, "router", "round-rectangle", 36 * size, 30 * size, thick),
    },
    { selector: ".host", style: node(c, "host", "round-rectangle", 25 * size, 23 * size, thick) },
    {
      selector: ".segment",
      style: { shape: "rectangle", width: 46, height: 7, "background-color": c("line6"), "border-width": 0 },
    },
    { selector: ".island", style: node(c, "island", "hexagon", 30 * size, 25 * size, thick) },
    {
      selector: ".unknown-kind",
      style: {
        "background-color": c("paper"),
        "border-style": "dashed",
        "background-image": thick > FAR ? "none" : sign("unknown", c("ink")),
      },
    },
    {
      selector: "edge",
      style: { width: 3 * thick, "curve-style": "bezier", "line-color": c("line6"), "overlay-opacity": 0 },
    },
    // Two thin lines: what carries IPv4 addresses is told from what does not without colour, too.
    {
      selector: ".ipv4, .member",
      style: {
        "line-color": c("paper"),
        width: 1.6 * thick,
        "line-outline-width": 1.7 * Math.sqrt(thick),
        "line-outline-color": c("line4"),
      },
    },
    { selector: "edge.unknown", style: { "line-style": "dotted", "line-color": c("unknown"), "line-outline-width": 0 } },
    {
      selector: "edge.down",
      style: {
        "line-style": "dashed",
        "line-color": c("bad"),
        "line-outline-width": 0,
        width: 4 * thick,
        "z-index": 5,
      },
    },
    {
      selector: "node.down",
      style: { "border-color": c("bad"), "border-style": "dashed", "border-width": 3.5 * size, "background-color": c("unknown") },
    },
    { selector: "node.unknown", style: { "border-style": "dotted" } },
    { selector: ".wrong", style: ringed(c("bad"), 3 * thick) },
    { selector: ".warned", style: ringed(c("warn"), 3 * thick) },
    {
      selector: "node:selected",
      style: { "underlay-color": c("accent"), "underlay-opacity": 0.4, "underlay-padding": 8 },
    },
    {
      selector: "edge:selected",
      style: { "underlay-color": c("accent"), "underlay-opacity": 0.3, "underlay-padding": 6 },
    },
    { selector: ".pulse", style: { "underlay-color": c("pulse"), "underlay-opacity": 0.55, "underlay-padding": 8 * size } },
    {
      selector: ".fails",
      style: {
        opacity: 0.8,
        "line-style": "dashed",
        "line-color": c("bad"),
        "line-outline-width": 0,
        width: 4 * thick,
        "border-style": "dashed",
        "border-color": c("bad"),
        "background-color": c("unknown"),
      },
    },
    { selector: ".aside", style: { opacity: 0.35 } },
    { selector: "node", style: { "z-index": 20 } },
    {
      // Beside its link, as the lines of a tram are; it ends below the signs of its nodes.
      selector: ".path",
      style: {
        "curve-style": "straight",
        "source-endpoint": (edge) => edge.data("beside"),
        "target-endpoint": (edge) => edge.data("beside"),
        width: 4.5 * thick,
        "arrow-scale": 1.1,
        "z-index": 10,
        events: "no",
      },
    },
    { selector: ".path.headed", style: { "mid-target-arrow-shape": "triangle" } },
    {
      selector: ".there",
      style: { "line-color": c("there"), "mid-target-arrow-color": c("there"), "line-style": "solid" },
    },
    {
      selector: ".back",
      style: {
        "line-color": c("back"),
        "mid-target-arrow-color": c("back"),
        "line-style": "dashed",
        "line-dash-pattern": [9 * size, 5 * size],
      },
    },
    {
      // The path before it moved.
      selector: ".was",
      style: {
        "line-color": c("unknown"),
        "mid-target-arrow-color": c("unknown"),
        "line-style": "dashed",
        "line-dash-pattern": [3 * size, 4 * size],
        opacity: 0.8,
        "z-index": 8,
      },
    },
    { selector: ".ends-good", style: ringed(c("good"), 3 * thick) },
    { selector: ".ends-bad", style: ringed(c("bad"), 4 * thick) },
  ];
}
