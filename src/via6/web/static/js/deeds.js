// What can be changed from here, where `via6 web --allow-changes` lets it: a panel of its own on the network's page and
// on a node's. The server says what may be changed, and refuses what may not.

import { ask, nodePath, Refused, tell } from "./api.js";
import { at, h, refusal } from "./dom.js";

const said = h("div", { "aria-live": "polite" });

function panel(...children) {
  const title = h("h2", { id: "deeds-title" }, "Change it");
  return h("section", { class: "card", id: "deeds", "aria-labelledby": "deeds-title" }, title, ...children, said);
}

async function change(path, body) {
  for (const one of at("deeds").querySelectorAll("button")) one.disabled = true;
  try {
    const { done, problems } = await tell(path, body);
    said.replaceChildren(
      ...done.map((one) => h("p", { class: "note" }, one)),
      ...problems.map((one) => h("p", { class: "notice bad" }, one)),
    );
  } catch (error) {
    said.replaceChildren(refusal(error instanceof Refused ? error : new Refused(String(error))));
  }
  for (const one of at("deeds").querySelectorAll("button")) one.disabled = false;
}

const button = (text, work, id = null) => h("button", { type: "button", id, onclick: work }, text);

async function links() {
  if ((await ask("network")).source !== "lab") return;
  const select = h("select", { id: "deeds-link" });
  const fill = async () => {
    const chosen = select.value;
    const found = (await ask("failures")).filter((one) => one.kind === "link");
    select.replaceChildren(
      ...found.map((one) => h("option", { value: one.id, selected: one.id === chosen }, one.name)),
    );
    if (!found.length) setTimeout(() => fill().catch(() => {}), 2000); // which are routers is not known at once
  };
  select.addEventListener("focus", () => fill().catch(() => {})); // links come and go
  const set = (state) => () => change(`links/${encodeURIComponent(select.value)}`, { state });
  const buttons = h(
    "div",
    { class: "fields buttons" },
    button("Cut it", set("down"), "deeds-cut"),
    " ",
    button("Mend it", set("up"), "deeds-mend"),
  );
  document.querySelector("aside").append(panel(h("label", {}, "Link ", select), buttons));
  await fill();
}

async function findings(id) {
  const select = h("select", { id: "deeds-finding" });
  const remedy = h("pre", { class: "remedy", tabindex: 0, "aria-label": "What would be done" });
  let list = [];
  const show = () => {
    remedy.textContent = list.find((one) => one.id === select.value)?.remedy ?? "Nothing can be mended from here.";
  };
  const fill = async () => {
    list = (await ask(`${nodePath(id)}/findings`)).filter((one) => one.fixable);
    select.replaceChildren(...list.map((one) => h("option", { value: one.id }, one.title)));
    show();
  };
  select.addEventListener("change", show);
  select.addEventListener("focus", () => fill().catch(() => {}));
  const fix = async () => {
    await change(`${nodePath(id)}/fix`, { finding: select.value });
    setTimeout(() => fill().catch(() => {}), 2000); // the doctor looks again
  };
  const undo = () => change(`${nodePath(id)}/undo`, {});
  const buttons = h("div", { class: "fields buttons" }, button("Mend it", fix), " ", button("Take it back", undo));
  at("findings").after(panel(h("label", {}, "Finding ", select), remedy, buttons));
  await fill();
}

const begun = at("node") ? findings(at("node").dataset.id) : document.querySelector("aside") ? links() : null;
begun?.catch(() => {});
