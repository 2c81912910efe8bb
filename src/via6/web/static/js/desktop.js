// A desktop in the browser: noVNC, through the WebSocket that via6 web serves for this desktop and no other.

import RFB from "/vendor/novnc/core/rfb.js";
import { at } from "./dom.js";

const FIRST_MS = 1000;
const LONGEST_MS = 15000;
const STEADY_MS = 10000;

let rfb = null;
let pause = FIRST_MS;
let timer = 0;
let countdown = 0;

function say(kind, text) {
  at("connection").className = kind;
  if (at("connection").textContent !== text) at("connection").textContent = text;
}

function connect() {
  clearTimeout(timer);
  clearInterval(countdown);
  at("reconnect").hidden = true;
  at("screen").replaceChildren();
  say("", "connecting");
  const where = new URL(at("screen").dataset.path, location.href);
  where.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  let began = 0;
  rfb = new RFB(at("screen"), where.href, { shared: true });
  rfb.background = "#1c1f24";
  scale();
  rfb.addEventListener("connect", () => {
    began = performance.now();
    say("on", "connected");
    at("cad").disabled = false;
    at("credentials").hidden = true;
    rfb.focus();
  });
  rfb.addEventListener("disconnect", (event) => {
    // A connection that held for a while is tried again at once.
    if (began && performance.now() - began > STEADY_MS) pause = FIRST_MS;
    lost(
      event.detail.clean
        ? "the desktop ended the connection"
        : began
          ? "connection lost"
          : "no connection to the desktop",
    );
  });
  rfb.addEventListener("credentialsrequired", (event) => {
    say("", "the desktop asks for a password");
    at("username").parentElement.hidden = !event.detail.types.includes("username");
    at("credentials").hidden = false;
    at("password").focus();
  });
  rfb.addEventListener("securityfailure", (event) => {
    refused = event.detail.reason || "the password was not accepted";
  });
}

let refused = "";

function lost(text) {
  rfb = null;
  at("cad").disabled = true;
  at("reconnect").hidden = false;
  if (refused) {
    // Trying a wrong password again and again would lock the desktop.
    say("lost", refused);
    refused = "";
    return;
  }
  let left = Math.round(pause / 1000);
  say("lost", `${text}; trying again in ${left} s`);
  countdown = setInterval(() => {
    left -= 1;
    if (left > 0) say("lost", `${text}; trying again in ${left} s`);
  }, 1000);
  timer = setTimeout(connect, pause);
  pause = Math.min(LONGEST_MS, pause * 2);
}

function scale() {
  if (!rfb) return;
  rfb.scaleViewport = at("scale").checked;
  rfb.clipViewport = false;
}

at("scale").addEventListener("change", scale);
at("reconnect").addEventListener("click", () => {
  pause = FIRST_MS;
  connect();
});
at("cad").addEventListener("click", () => {
  rfb?.sendCtrlAltDel();
  rfb?.focus();
});
at("fullscreen").addEventListener("click", async () => {
  if (document.fullscreenElement) await document.exitFullscreen();
  else
    await at("screen")
      .requestFullscreen()
      .catch(() => say("lost", "this browser does not allow full screen"));
  rfb?.focus();
});
at("credentials").addEventListener("submit", (event) => {
  event.preventDefault();
  at("credentials").hidden = true;
  rfb?.sendCredentials({ username: at("username").value, password: at("password").value });
  at("password").value = "";
});

// All keys go to the desktop, Tab as well; Ctrl+Alt+Shift gives the keyboard back to the page.
document.addEventListener(
  "keydown",
  (event) => {
    if (!rfb || !(event.ctrlKey && event.altKey && event.shiftKey)) return;
    rfb.blur();
    at("fullscreen").focus();
  },
  true,
);

// Phones show their keyboard for a field only: what is typed into it is sent, and one sign stays, so that there is
// something to delete.
const KEPT = "_";
const KEYS = { "\n": 0xff0d, "\t": 0xff09 };
const typed = at("typed");
const keysym = (letter) =>
  KEYS[letter] ?? (letter.codePointAt(0) < 0x100 ? letter.codePointAt(0) : 0x01000000 | letter.codePointAt(0));
at("keyboard").addEventListener("click", () => {
  typed.value = KEPT;
  typed.focus();
});
typed.addEventListener("input", () => {
  if (typed.value.length < KEPT.length) rfb?.sendKey(0xff08, "Backspace");
  for (const letter of typed.value.replace(KEPT, "")) rfb?.sendKey(keysym(letter), null);
  typed.value = KEPT;
});

window.addEventListener("pagehide", () => rfb?.disconnect());
connect();
