// What a person says of the chosen object in a frame: clicks, a box, strokes, a polygon, "absent", "this is right".

import { get, post } from "./api.js";
import { draw, inVideo, inside, maskOf, pan, view, zoom } from "./picture.js";
import { stop } from "./player.js";
import { encode, paintLengths } from "./rle.js";
import { attempt, emit, numberOf, ofRun, on, saidOf, say, shownOf, state } from "./state.js";

export const TOOLS = [
  ["click", "Click", "C", "click on the object; right-click, or with Shift, beside it"],
  ["box", "Box", "B", "drag a box around the object"],
  ["brush", "Brush", "D", "paint what belongs to it"],
  ["eraser", "Eraser", "E", "paint what does not"],
  ["polygon", "Polygon", "G", "click its corners; double-click closes it; with Shift it is cut out"],
  ["hand", "Hand", "H", "drag the picture"],
];

const canvas = document.getElementById("picture");
let queue = Promise.resolve(); // one word after the other
let drag = null;
const waiting = new Map(); // of each frame of an object: masks and clicks that were not answered yet

const keyOf = ({ object, frame }) => `${state.run} ${object} ${frame}`;

// What is repeated of a version that has come meanwhile: it says the same whatever that holds.
const repeats = (what, content) => what === "say" && !content.confirmed;

// Send a word to the server, which has it on its disk before it answers.
export function send(what, content = {}) {
  const { run, info } = state; // a word is about what was shown when it was said
  const key = keyOf(content);
  if (what === "say") state.hidden.delete(content.object); // what comes of it is to be seen
  if (what === "say") waiting.set(key, [...(waiting.get(key) ?? []), content]);
  queue = queue.then(() =>
    attempt(async () => {
      try {
        if (state.run === run && state.mayWrite) throw new Error(`Not changed: ${state.mayWrite}.`);
        let found;
        try {
          found = await post(run, what, { ...content, stamp: stamps.get(run) ?? info.stamp });
        } catch (error) {
          if (error.status !== 409) throw error;
          if (state.run === run) emit("stale");
          stamps.set(run, (await get(run)).stamp);
          if (!repeats(what, content)) throw new Error("The run has changed meanwhile: look again, then say it again.");
          found = await post(run, what, { ...content, stamp: stamps.get(run) });
        }
        if (state.run !== run) return;
        say("");
        take(found);
      } catch (error) {
        if (state.run !== run) throw new Error(`${info.name}: ${error.message}`); // lost, of a run that is out of sight
        throw error;
      } finally {
        waiting.set(key, (waiting.get(key) ?? []).filter((x) => x !== content));
        if (!waiting.get(key).length) waiting.delete(key);
      }
    }),
  );
  return queue;
}

const stamps = new Map(); // the last version that was heard of, by run

export let answers = 0; // how many were taken

// What the server says of the run.
export function take(found) {
  answers += 1;
  const before = JSON.stringify([state.draft, state.mayWrite, state.job]);
  Object.assign(state, { draft: found.draft, mayWrite: found.may_write, job: found.job });
  stamps.delete(state.run);
  if (found.stamp !== state.info.stamp) {
    emit("stale");
    stamps.set(state.run, found.stamp);
  }
  if (JSON.stringify([state.draft, state.mayWrite, state.job]) !== before) emit("draft");
}

// The mask that a stroke begins with: the last one that was drawn here, answered or not. Null while clicks are looked at.
function begun() {
  const last = waiting.get(keyOf(here()))?.at(-1);
  if (last && !last.mask) {
    say("Wait for the mask of your click.");
    return null;
  }
  if (!last) return maskOf(state.object);
  return paintLengths(last.mask.counts, state.info.width, state.info.height);
}

const here = () => ({ object: state.object, frame: numberOf(state.step) });

function click(point, positive) {
  say("looking …");
  send("say", { ...here(), points: [[...point.map((x) => Math.round(x * 100) / 100), positive ? 1 : 0]] });
}

function box([x, y], [otherX, otherY]) {
  const left = Math.min(x, otherX);
  const top = Math.min(y, otherY);
  const sides = [Math.abs(x - otherX), Math.abs(y - otherY)];
  if (Math.min(...sides) < 1) return say("Drag from one corner to the other.");
  say("looking …");
  send("say", { ...here(), box: [left, top, ...sides].map((v) => Math.round(v * 100) / 100) });
}

function drawn(mask, of) {
  const { width, height } = state.info;
  send("say", { ...of, mask: { size: [height, width], counts: encode(mask, width, height) } });
}

// "Absent", or "this is right", in this frame, or from where a stretch was begun.
export function declare(what) {
  const { object, frame } = here();
  const begin = state.from;
  if (what === "confirmed" && begin === null && saidOf(object, state.step)) return say("Said already.");
  if (what === "confirmed" && begin === null && !shownOf(object, state.step)) return say("Wait for the frame.");
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

export const undo = () => send("undo");
export const redo = () => send("redo");
export function follow() {
  const reach = document.getElementById("reach").value;
  send("follow", reach === "" ? {} : { frames: Number(reach) });
}
export function addObject() {
  if (state.mayWrite) return say(`Not changed: ${state.mayWrite}.`, "error");
  const dialog = document.getElementById("new");
  const name = document.getElementById("new-name");
  const words = document.getElementById("new-words");
  name.value = "";
  words.checked = false;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.onclose = () => {
    if (dialog.returnValue === "add") send("add", { text: name.value, words: words.checked });
  };
  return undefined;
}
export const cancel = () => change("cancel");

// Something that the server does at once; gives whether it did.
export async function change(what) {
  const found = await ofRun((run) => post(run, what));
  if (found) take(found);
  return Boolean(found);
}

// Strokes

function dab(mask, [x, y], value) {
  const { width, height } = state.info;
  const r = state.brush;
  for (let row = Math.max(0, Math.floor(y - r)); row <= Math.min(height - 1, Math.ceil(y + r)); row++) {
    for (let column = Math.max(0, Math.floor(x - r)); column <= Math.min(width - 1, Math.ceil(x + r)); column++) {
      if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= Math.max(r, 0.75)) mask[row * width + column] = value;
    }
  }
}

function stroke(from, to) {
  const value = state.tool === "brush" ? 1 : 0;
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  const steps = Math.max(1, Math.ceil(length / Math.max(1, state.brush / 3)));
  for (let i = 0; i <= steps; i++) {
    dab(view.stroke, [from[0] + ((to[0] - from[0]) * i) / steps, from[1] + ((to[1] - from[1]) * i) / steps], value);
  }
}

// Polygons

function corner(point) {
  view.pending ??= { polygon: [], of: here() };
  view.pending.polygon.push(point);
  draw();
}

export function close(cut) {
  const { polygon: corners = [], of } = view.pending ?? {};
  view.pending = null;
  draw();
  if (corners.length < 3) return corners.length ? say("A polygon has three corners at least.") : undefined;
  const { width, height } = state.info;
  const sheet = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  sheet.beginPath();
  corners.forEach(([x, y], i) => sheet[i ? "lineTo" : "moveTo"](x, y));
  sheet.fill();
  const { data } = sheet.getImageData(0, 0, width, height);
  const mask = begun();
  if (!mask) return undefined;
  for (let i = 0; i < mask.length; i++) if (data[4 * i + 3] > 127) mask[i] = cut ? 0 : 1;
  return drawn(mask, of);
}

// What is being drawn belongs to its frame and its object: it is dropped where these change.
export function dropDrawing() {
  const there = Boolean(view.pending || view.stroke);
  if (there) say("What was being drawn was dropped.");
  view.pending = null;
  view.stroke = null;
  if (!drag?.pan) drag = null;
  return there;
}

export function drop() {
  const there = dropDrawing() || state.from !== null;
  state.from = null;
  emit("look");
  return there;
}

on("moved chosen run", () => dropDrawing() && draw());

// The tool at a place, from the mouse or from the keyboard's cross.
function ready() {
  stop();
  if (state.mayWrite && state.tool !== "hand") {
    say(`Not changed: ${state.mayWrite}.`, "error");
    return false;
  }
  if (state.painted === state.step && state.stored.has(state.step)) return true;
  say("Wait for the frame.");
  return false;
}

export function strike(point, other) {
  if (!ready()) return;
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
    stroke(point, point);
    const mask = view.stroke;
    view.stroke = null;
    drawn(mask, here());
  }
}

const isOutside = ([x, y]) => x < 0 || y < 0 || x >= state.info.width || y >= state.info.height;

canvas.addEventListener("pointerdown", (event) => {
  canvas.focus();
  const point = inside(inVideo(event));
  view.cross = null;
  if (event.button === 1 || state.tool === "hand") drag = { pan: [event.clientX, event.clientY] };
  else if (!ready()) return;
  else if ((state.tool === "click" || state.tool === "polygon") && isOutside(inVideo(event))) return;
  else if (state.tool === "click") click(point, event.button === 0 && !event.shiftKey);
  else if (event.button !== 0) return;
  else if (state.tool === "polygon") corner(point);
  else {
    const mask = state.tool === "box" ? null : begun();
    if (state.tool !== "box" && !mask) return;
    drag = { first: point, last: point, of: here(), touched: !isOutside(inVideo(event)) };
    view.stroke = mask;
    if (mask && drag.touched) stroke(point, point);
    draw();
  }
  canvas.setPointerCapture(event.pointerId);
});

canvas.addEventListener("pointermove", (event) => {
  const point = inside(inVideo(event));
  if (drag?.pan) {
    const ratio = window.devicePixelRatio;
    pan((event.clientX - drag.pan[0]) * ratio, (event.clientY - drag.pan[1]) * ratio);
    drag.pan = [event.clientX, event.clientY];
  } else if (drag) {
    const touches = !isOutside(inVideo(event));
    // What is painted begins where the picture does: beside it, there is nothing to paint.
    if (view.stroke && (drag.touched || touches)) stroke(drag.touched ? drag.last : point, point);
    drag.touched ||= touches;
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

canvas.addEventListener("pointerup", () => {
  if (!drag) return;
  const { first, last, of, touched } = drag;
  const panned = drag.pan;
  drag = null;
  if (panned) return;
  if (view.stroke) {
    const mask = view.stroke;
    view.stroke = null;
    if (touched) drawn(mask, of);
  } else {
    view.pending = null;
    box(first, last);
  }
  draw();
});

// A pointerdown does not count clicks. The second one of a double-click has put a corner on the last one.
canvas.addEventListener("dblclick", (event) => {
  if (!view.pending?.polygon) return;
  view.pending.polygon.pop();
  close(event.shiftKey);
});

canvas.addEventListener("pointercancel", () => drop() || draw());
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, inside(inVideo(event)));
  },
  { passive: false },
);
