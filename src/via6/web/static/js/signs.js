// The signs of routers, hosts and islands, as pictures of one colour for the nodes of the picture. The legend has the
// same ones, drawn by the page itself: templates/signs.html.

const STROKE = 'fill="none" stroke-width="2.4" stroke-linecap="round" stroke-linejoin="round"';

// Each in a square of 32.
const SIGNS = {
  router: `<path ${STROKE} stroke="INK" d="M18.5 13.5 25 7M20.5 7H25v4.5M13.5 18.5 7 25M11.5 25H7V20.5M7 7l6.5 6.5M13.5 9v4.5H9M25 25l-6.5-6.5M18.5 23v-4.5H23"/>`,
  host: `<path ${STROKE} stroke="INK" d="M6 8h20v13H6zM16 21v4M11 25.5h10"/>`,
  unknown: `<path ${STROKE} stroke="INK" d="M11.5 12a4.5 4.5 0 1 1 6.5 4c-1.5.8-2 1.6-2 3M16 24v.1"/>`,
  island: `<path ${STROKE} stroke="INK" d="M18 24V8L9.5 19H22"/>`,
};

/** An address that holds the sign: cytoscape draws it as any image. */
export function sign(name, ink) {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64" viewBox="0 0 32 32">${SIGNS[name]}</svg>`;
  return `data:image/svg+xml;utf8,${encodeURIComponent(svg.replaceAll("INK", ink))}`;
}
