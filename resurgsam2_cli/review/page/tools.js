// What a person says of the chosen object in a frame: clicks, a box, strokes, a polygon, "absent", "this is right".

import { draw, inVideo, inside, maskOf, pan, view, zoom } from "./picture.js";
import { stop } from "./player.js";
import { encode, paintLengths } from "./rle.js";
import { emit, goOn, numberOf, on, saidOf, say, sayLost, shownOf, state } from "./state.js";
import { change, isBehind, send, unansweredOf } from "./words.js";

export const TOOLS = [
  ["click", "Click", "C", "click on the object; right-click, or with Shift, beside it"],
  ["box", "Box", "B", "drag a box around the object"],
  ["brush", "Brush", "D", "paint what belongs to it"],
  ["eraser", "Eraser", "E", "paint what does not"],
  ["polygon", "Polygon", "G", "click its corners; double-click closes it; with Shift it is cut out"],
  ["hand", "Hand", "H", "drag the picture"],
];

const canvas = document.getElementById("picture");
let drag = null;

const here = () => ({ object: state.object, frame: numberOf(state.step) });

// A sheet of the size of the video, and what is painted on it.
const sheet = () => new Uint8Array(state.info.width * state.info.height);

// The mask that a stroke is seen on: with what was painted here and not answered yet. Null while clicks are looked at.
function begun() {
  const mask = maskOf(state.object);
  for (const { content } of unansweredOf(here())) {
    if (!content.change) {
      say("Wait for the mask of your click.", "wait");
      return null;
    }
    const { width, height } = state.info;
    apply(paintLengths(content.mask.counts, width, height), content.change, mask);
  }
  return mask;
}

function apply(painted, change, mask) {
  painted.forEach((there, i) => {
    if (there) mask[i] = change === "add" ? 1 : 0;
  });
}

function click(point, positive) {
  say("looking …", "wait");
  send("say", { ...here(), points: [[...point.map((x) => Math.round(x * 100) / 100), positive ? 1 : 0]] });
}

function box([x, y], [otherX, otherY]) {
  const left = Math.min(x, otherX);
  const top = Math.min(y, otherY);
  const sides = [Math.abs(x - otherX), Math.abs(y - otherY)];
  if (Math.min(...sides) < 1) return say("Drag from one corner to the other.");
  say("looking …", "wait");
  send("say", { ...here(), box: [left, top, ...sides].map((v) => Math.round(v * 100) / 100) });
}

// What was painted goes to the server, which puts it on the mask that is there by then.
function drawn(painted, adds, of) {
  const { width, height } = state.info;
  const mask = { size: [height, width], counts: encode(painted, width, height) };
  send("say", { ...of, mask, change: adds ? "add" : "cut" });
}

// "Absent", or "this is right", in this frame, or from where a stretch was begun.
export function declare(what) {
  if (!ready() || (what === "confirmed" && !isShown())) return undefined;
  const { object, frame } = here();
  const begin = state.from;
  if (what === "confirmed" && begin === null && saidOf(object, state.step)) return say("Said already.", "wait");
  state.from = null;
  emit("look");
  const ends = begin === null || begin === frame ? {} : { frame: Math.min(begin, frame), end: Math.max(begin, frame) };
  send("say", { object, frame, [what]: true, ...ends });
}

export function fromHere() {
  state.from = state.from === null ? numberOf(state.step) : null;
  say(state.from === null ? "" : `From frame ${state.from}: go to the last one, then say "absent" or "right".`);
  emit("look");
}

// Whether what is shown is the run as it is known.
function isShown() {
  if (state.painted !== null && !isBehind()) return true;
  say(state.painted === null ? "Wait for the frame." : "Wait for the new version.", "wait");
  return false;
}

export const undo = () => isShown() && send("undo");
export const redo = () => isShown() && send("redo");
export function follow() {
  if (state.painted === null) return say("Wait for the frame.", "wait");
  const reach = document.getElementById("reach").value;
  return send("follow", reach === "" ? {} : { frames: Number(reach) });
}
export function addObject() {
  if (state.mayWrite) return say(`Not changed: ${state.mayWrite}.`, "error");
  const { run } = state;
  const dialog = document.getElementById("new");
  const name = document.getElementById("new-name");
  const words = document.getElementById("new-words");
  name.value = "";
  words.checked = false;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.onclose = () => {
    if (dialog.returnValue !== "add") return;
    if (state.run !== run) return sayLost(`Not added: ${state.info.name} was opened meanwhile.`);
    state.adds = true;
    send("add", { text: name.value, words: words.checked });
  };
  return undefined;
}
export const cancel = () => change("cancel");

// Strokes

function dab([x, y], adds, painted) {
  const { width, height } = state.info;
  const r = state.brush;
  for (let row = Math.max(0, Math.floor(y - r)); row <= Math.min(height - 1, Math.ceil(y + r)); row++) {
    for (let column = Math.max(0, Math.floor(x - r)); column <= Math.min(width - 1, Math.ceil(x + r)); column++) {
      if (Math.hypot(column + 0.5 - x, row + 0.5 - y) > Math.max(r, 0.75)) continue;
      painted[row * width + column] = 1;
      view.stroke[row * width + column] = adds;
    }
  }
}

function stroke(from, to, adds, painted) {
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  const steps = Math.max(1, Math.ceil(length / Math.max(1, state.brush / 3)));
  for (let i = 0; i <= steps; i++) {
    dab([from[0] + ((to[0] - from[0]) * i) / steps, from[1] + ((to[1] - from[1]) * i) / steps], adds, painted);
  }
}

// Polygons

function corner(point) {
  if (!view.pending?.polygon) view.pending = { polygon: [], of: here() };
  view.pending.polygon.push(point);
  draw();
}

export function close(cut) {
  if (state.mayWrite) return say(`Not changed: ${state.mayWrite}.`, "error");
  const { polygon: corners, of } = view.pending;
  if (corners.length < 3) return say("A polygon has three corners at least.", "wait");
  const { width, height } = state.info;
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.beginPath();
  corners.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](x, y));
  pen.fill();
  const { data } = pen.getImageData(0, 0, width, height);
  const painted = sheet().map((_, i) => (data[4 * i + 3] > 127 ? 1 : 0));
  if (!painted.includes(1)) return say("The polygon has no pixel in it: go on with its corners.", "wait");
  view.pending = null;
  draw();
  return drawn(painted, !cut, of);
}

// What is being drawn belongs to its frame and its object: it is dropped where these change. Gives whether there was any.
export function dropDrawing() {
  const there = Boolean(view.pending || view.stroke);
  if (there) sayLost("What was being drawn was dropped.");
  view.pending = null;
  view.stroke = null;
  if (!drag?.pan) drag = null;
  return there;
}

export function drop() {
  const there = dropDrawing() || state.from !== null;
  goOn();
  state.from = null;
  emit("look");
  return there;
}

on("moved chosen opened", () => dropDrawing() && draw());

// Another version has another mask below a stroke.
on("frame", () => {
  if (!drag?.painted || !view.stroke) return;
  view.stroke = maskOf(state.object);
  apply(drag.painted, drag.adds ? "add" : "cut", view.stroke);
});

// Whether something may be said of the frame.
function ready() {
  stop();
  if (state.mayWrite) {
    say(`Not changed: ${state.mayWrite}.`, "error");
    return false;
  }
  if (state.painted === state.step && state.stored.has(state.step)) return true;
  say("Wait for the frame.", "wait");
  return false;
}

// The same for a tool: a polygon that was begun is not lost by another one.
function toolReady() {
  if (state.tool === "hand") return true;
  if (!ready()) return false;
  if (view.pending?.polygon && state.tool !== "polygon") {
    say("A polygon was begun: close it with Enter, or drop it with Escape.", "wait");
    return false;
  }
  if (view.pending?.first && state.tool !== "box") view.pending = null;
  return true;
}

// The tool at a place, from the keyboard's cross.
export function strike(point, other) {
  if (drag || !toolReady()) return;
  if (state.tool === "click") click(point, !other);
  else if (state.tool === "polygon") corner(point);
  else if (state.tool === "box") {
    if (view.pending?.first) {
      const { first } = view.pending;
      view.pending = null;
      box(first, point);
    } else view.pending = { first: point, box: [...point, 0, 0] };
    draw();
  } else if (state.tool !== "hand") {
    view.stroke = begun();
    if (!view.stroke) return;
    const [painted, adds] = [sheet(), state.tool === "brush"];
    stroke(point, point, adds, painted);
    view.stroke = null;
    drawn(painted, adds, here());
  }
}

const isOutside = ([x, y]) => x < 0 || y < 0 || x >= state.info.width || y >= state.info.height;

canvas.addEventListener("pointerdown", (event) => {
  if (drag) return; // a second finger
  canvas.focus();
  const point = inside(inVideo(event));
  view.cross = null;
  const { pointerId: pointer } = event;
  if (event.button === 1 || state.tool === "hand") drag = { pointer, pan: [event.clientX, event.clientY] };
  else if (!toolReady()) return;
  else if ((state.tool === "click" || state.tool === "polygon") && isOutside(inVideo(event))) return;
  else if (state.tool === "click") click(point, event.button === 0 && !event.shiftKey);
  else if (event.button !== 0) return;
  else if (state.tool === "polygon") corner(point);
  else {
    const mask = state.tool === "box" ? null : begun();
    if (state.tool !== "box" && !mask) return;
    const isInside = !isOutside(inVideo(event));
    drag = { pointer, first: point, last: point, of: here(), isInside, corner: view.pending?.first };
    view.stroke = mask;
    if (mask) Object.assign(drag, { painted: sheet(), adds: state.tool === "brush" });
    if (mask && isInside) stroke(point, point, drag.adds, drag.painted);
    draw();
  }
  canvas.setPointerCapture(event.pointerId);
});

canvas.addEventListener("pointermove", (event) => {
  if (drag && event.pointerId !== drag.pointer) return;
  const point = inside(inVideo(event));
  if (drag?.pan) {
    const ratio = window.devicePixelRatio;
    pan((event.clientX - drag.pan[0]) * ratio, (event.clientY - drag.pan[1]) * ratio);
    drag.pan = [event.clientX, event.clientY];
  } else if (drag) {
    const isInside = !isOutside(inVideo(event));
    // What is painted begins and ends where the picture does: beside it, there is nothing to paint.
    if (view.stroke && (drag.isInside || isInside)) stroke(drag.isInside ? drag.last : point, point, drag.adds, drag.painted);
    drag.isInside = isInside;
    if (!view.stroke) {
      const [x, y] = drag.first;
      view.pending = { box: [Math.min(x, point[0]), Math.min(y, point[1]), Math.abs(x - point[0]), Math.abs(y - point[1])] };
    }
    drag.last = point;
    draw();
  } else if (state.tool === "brush" || state.tool === "eraser") {
    view.cross = point;
    draw();
  }
});

canvas.addEventListener("pointerup", (event) => {
  if (event.pointerId !== drag?.pointer) return;
  const { first, last, of, painted, adds, corner: other } = drag;
  const panned = drag.pan;
  drag = null;
  if (panned) return;
  if (painted) {
    view.stroke = null;
    if (painted.includes(1)) drawn(painted, adds, of);
  } else {
    view.pending = null;
    const isClick = Math.hypot(first[0] - last[0], first[1] - last[1]) < 1;
    box(isClick && other ? other : first, last);
  }
  draw();
});

// A pointerdown does not count clicks. The second one of a double-click has put a corner on the last one.
canvas.addEventListener("dblclick", (event) => {
  if (state.tool !== "polygon" || !view.pending?.polygon || isOutside(inVideo(event)) || !ready()) return;
  const [before, last] = view.pending.polygon.slice(-2);
  if (last && Math.hypot(before[0] - last[0], before[1] - last[1]) * view.scale < 8) view.pending.polygon.pop();
  close(event.shiftKey);
});

canvas.addEventListener("pointercancel", (event) => {
  if (event.pointerId !== drag?.pointer) return;
  if (!drag.pan) dropDrawing();
  drag = null;
  draw();
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, inside(inVideo(event)));
  },
  { passive: false },
);
