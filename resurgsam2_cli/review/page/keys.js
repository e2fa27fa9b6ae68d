// Everything by keyboard, and the sheet that says so.

import { get } from "./api.js";
import { lookCloser } from "./lanes.js";
import { chooseObject, chooseTool, element, nextPlace } from "./panel.js";
import { draw, inside, pan, view, zoom } from "./picture.js";
import { goTo, move, play, stop } from "./player.js";
import { emit, goOn, ofRun, say, state } from "./state.js";
import { addObject, cancel, close, declare, drop, follow, fromHere, redo, strike, TOOLS, undo } from "./tools.js";

const show = (id) => document.getElementById(id).showModal();

async function jump(what, direction) {
  stop();
  goOn();
  const { object, step } = state;
  const found = await ofRun((run) => get(run, "next", { what, direction, object, step }));
  if (found && found.step === null) say("There is none that way.");
  else if (found && state.step === step && state.object === object && !view.pending && !view.stroke) goTo(found.step);
}

function point(x, y) {
  const { width, height } = state.info;
  const by = Math.max(1, Math.round(4 / view.scale));
  const [left, top] = view.cross ?? [width / 2, height / 2];
  view.cross = view.cross ? inside([left + x * by, top + y * by]) : [left, top];
  draw();
}

function act(other) {
  if (!view.cross) return point(0, 0);
  strike(view.cross, other);
}

function escape() {
  if (drop()) return;
  if (state.job?.stage === "running") cancel();
  view.cross = null;
  draw();
}

function opacity(by) {
  state.opacity = Math.min(1, Math.max(0, state.opacity + by));
  emit("look");
}

function brush(by) {
  state.brush = Math.min(100, Math.max(1, state.brush + by));
  emit("look");
}

const still = (action) => () => {
  stop();
  action();
};

const KEYS = [
  ["←  →", "a frame back, on", { ArrowLeft: still(() => move(-1)), ArrowRight: still(() => move(1)) }],
  ["Shift + ←  →", "25 frames", { "Shift+ArrowLeft": still(() => move(-25)), "Shift+ArrowRight": still(() => move(25)) }],
  ["Home  End", "first, last frame", { Home: still(() => goTo(0)), End: still(() => goTo(state.info.frames - 1)) }],
  ["Space", "play, stop", { " ": play }],
  ["N  P", "next, previous place worth a look", { n: () => nextPlace(1), p: () => nextPlace(-1) }],
  [".  ,", "next, previous appearance of the object", { ".": () => jump("appearance", 1), ",": () => jump("appearance", -1) }],
  ["]  [", "next, previous frame that a person kept", { "]": () => jump("kept", 1), "[": () => jump("kept", -1) }],
  ["1 … 9,  Tab", "choose an object", Object.fromEntries([...Array(9).keys()].map((i) => [String(i + 1), () => chooseObject(i + 1)]))],
  ["↑  ↓", "the object above, below", { ArrowUp: () => chooseObject(state.object - 1), ArrowDown: () => chooseObject(state.object + 1) }],
  ["W", "a new object", { w: addObject }],
  ["V", "hide the object, or show it", { v: () => {
    state.hidden[state.hidden.has(state.object) ? "delete" : "add"](state.object);
    emit("look");
  } }],
  ...TOOLS.map(([name, label, key, what]) => [key, `${label}: ${what}`, { [key.toLowerCase()]: () => chooseTool(name) }]),
  ["I  J  K  L", "move the cross (with Shift: far)", {
    i: () => point(0, -1), k: () => point(0, 1), j: () => point(-1, 0), l: () => point(1, 0),
    "Shift+I": () => point(0, -10), "Shift+K": () => point(0, 10), "Shift+J": () => point(-10, 0), "Shift+L": () => point(10, 0),
  }],
  ["F", "use the tool at the cross; Shift + F: click beside the object", { f: () => act(false), "Shift+F": () => act(true) }],
  ["Enter", "close the polygon (Shift: cut it out); else: this is right", {
    Enter: () => (view.pending?.polygon ? close(false) : declare("confirmed")),
    "Shift+Enter": () => (view.pending?.polygon ? close(true) : declare("confirmed")),
  }],
  ["A", "the object is absent", { a: () => declare("absent") }],
  ["S", "from here: the next \"absent\" or \"right\" holds from this frame to where it is said", { s: fromHere }],
  ["U  Y", "undo, redo; also Ctrl + Z, Ctrl + Shift + Z", { u: undo, y: redo, "Ctrl+z": undo, "Ctrl+Shift+Z": redo }],
  ["T", "track again", { t: follow }],
  ["Escape", "drop what is being drawn; stop tracking", { Escape: escape }],
  ["+  −  0", "zoom", { "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => zoom(0) }],
  ["Alt + arrows", "move the zoomed picture", {
    "Alt+ArrowLeft": () => pan(60, 0), "Alt+ArrowRight": () => pan(-60, 0),
    "Alt+ArrowUp": () => pan(0, 60), "Alt+ArrowDown": () => pan(0, -60),
  }],
  ["{  }", "lanes: see more, look closer", { "{": () => lookCloser(0.5), "}": () => lookCloser(2) }],
  ["O  Shift + O", "masks stronger, weaker", { o: () => opacity(0.1), "Shift+O": () => opacity(-0.1) }],
  ["<  >", "brush smaller, larger", { "<": () => brush(-2), ">": () => brush(2) }],
  ["R", "all runs", { r: () => document.getElementById("runs-button").click() }],
  ["?", "this sheet", { "?": () => show("help") }],
];

const actions = Object.assign({}, ...KEYS.map(([, , keys]) => keys));

function nameOf(event) {
  const isLetter = /^[a-z]$/i.test(event.key);
  const key = isLetter ? event.key[event.shiftKey ? "toUpperCase" : "toLowerCase"]() : event.key; // whatever Caps Lock says
  const shifted = event.shiftKey && (isLetter || event.key.length > 1);
  return [event.ctrlKey || event.metaKey ? "Ctrl" : "", event.altKey ? "Alt" : "", shifted ? "Shift" : "", key]
    .filter(Boolean)
    .join("+");
}

document.addEventListener("keydown", (event) => {
  if (!state.info || document.querySelector("dialog[open]")) return;
  const { target } = event;
  if (event.repeat && !/^(Arrow|[ijkl+=-]$)/i.test(event.key)) return; // a key that is held says nothing twice
  const writes = target instanceof HTMLInputElement && target.type !== "checkbox";
  const presses = target instanceof HTMLButtonElement && (event.key === "Enter" || event.key === " ");
  if (presses || (writes && event.key !== "Escape")) return;
  const plain = event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey;
  const action = actions[nameOf(event)] ?? (plain ? actions[event.key.toLowerCase()] : undefined);
  if (!action) return;
  event.preventDefault();
  if (writes) target.blur();
  action();
});

// What was pressed by mouse does not keep the keyboard.
const picture = document.getElementById("picture");
document.addEventListener("click", (event) => {
  if (event.detail > 0 && event.target.closest("main button, footer button, #take-over")) picture.focus();
});
document.addEventListener("change", (event) => {
  if (event.target.type === "range" || event.target.type === "checkbox") picture.focus();
});

document.getElementById("keys").replaceChildren(
  ...KEYS.map(([keys, what]) => {
    const row = element("tr");
    row.append(element("th", keys), element("td", what));
    return row;
  }),
);
document.getElementById("help-button").addEventListener("click", () => show("help"));
document.getElementById("first").addEventListener("click", still(() => goTo(0)));
document.getElementById("last").addEventListener("click", still(() => goTo(state.info.frames - 1)));
document.getElementById("back").addEventListener("click", still(() => move(-1)));
document.getElementById("forth").addEventListener("click", still(() => move(1)));
document.getElementById("play").addEventListener("click", play);
document.getElementById("narrow").addEventListener("click", () => lookCloser(2));
document.getElementById("widen").addEventListener("click", () => lookCloser(0.5));
