// Elements are made of text nodes and attributes only, never of HTML text: names from a network may hold anything.

/** An element: h("a", { href: "/" }, "text", child, [more]). An attribute that is null or false is left out. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== ""));
  return element;
}

export const at = (id) => document.getElementById(id);

/** `3 errors`; the plural with an s. */
export const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

/** At most `most` characters, and none that turn the direction of what stands around them. */
export function brief(text, most) {
  const plain = Array.from(String(text).replace(/[\u0000-\u001f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, ""));
  return plain.length > most ? plain.slice(0, most - 1).join("") + "…" : plain.join("");
}

/** The time of day, with the whole date behind it. */
export function clock(seconds) {
  const date = new Date(seconds * 1000);
  return h(
    "time",
    { datetime: date.toISOString(), title: date.toLocaleString() },
    date.toLocaleTimeString([], { hour12: false }),
  );
}

export const stateWord = (state) => h("span", { class: `state ${state}` }, state);

export const nodeLink = (id, name) => h("a", { class: "bidi", href: `/nodes/${encodeURIComponent(id)}` }, name);

/** A refusal: what is wrong, and what helps. */
export function refusal(error) {
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    h("p", {}, error.error),
    error.remedy ? h("p", {}, error.remedy) : null,
  );
}

/** What does not work because of a finding. */
export const breaks = (one) => h("p", {}, h("span", { class: "label" }, "Breaks:"), " ", one.breaks);

/** One line of a timeline. `good` true, false or null. */
export function change(one) {
  const kind = one.good === true ? "good" : one.good === false ? "bad" : "";
  return h(
    "li",
    { class: kind },
    clock(one.time),
    " ",
    h("span", { class: "kind" }, one.kind),
    " ",
    h("span", { class: "what" }, one.text),
  );
}

/** Puts a line on top of a timeline of at most `most` lines. */
export function prepend(list, item, most = 200) {
  list.querySelector(".none")?.remove();
  list.prepend(item);
  while (list.children.length > most) list.lastElementChild.remove();
}

/** Calls `work` once, `wait` ms after the last of a burst, but no later than `longest` ms after its first. */
export function soon(work, wait, longest = wait * 4) {
  let timer = 0;
  let first = 0;
  return (...words) => {
    const now = performance.now();
    if (!timer) first = now;
    clearTimeout(timer);
    timer = setTimeout(
      () => {
        timer = 0;
        work(...words);
      },
      Math.max(0, Math.min(wait, first + longest - now)),
    );
  };
}
