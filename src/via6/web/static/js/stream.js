// The events of the server, and the words about the connection at the head of the page.

import { at } from "./dom.js";

const KINDS = ["network", "link", "node", "route", "findings"];
const PATIENCE_MS = 4000; // a browser's own pause between attempts is about as long

/** Calls `handlers[kind](data)` for each event. The browser connects again by itself; where it gives up, we do. What is
    not `live` has events, too: the doctor's findings come later than the page. */
export function listen(handlers, live) {
  const sign = at("live");
  let source = null;
  let timer = 0;

  function say(kind, text) {
    if (!live) return;
    sign.className = `live ${kind}`;
    if (sign.textContent !== text) sign.textContent = text;
  }

  function connect() {
    source = new EventSource("/api/events");
    source.addEventListener("open", () => say("on", "live"));
    source.addEventListener("error", () => {
      say("lost", "no connection; what you see may be old");
      if (source.readyState !== EventSource.CLOSED) return;
      clearTimeout(timer);
      timer = setTimeout(connect, PATIENCE_MS);
    });
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        let data;
        try {
          data = JSON.parse(event.data);
        } catch {
          return;
        }
        handlers[kind]?.(data);
      });
    }
  }

  say("", "connecting");
  connect();
  // A page that is kept for going back must not hold a connection.
  window.addEventListener("pagehide", () => source.close());
  window.addEventListener("pageshow", (event) => event.persisted && connect());
}
