// A lane per object over the whole run, or a part of it. Form says what color might not: a low block was found by
// words, a high one was tracked, a white one is a person's; the line is the predicted IoU; triangles are worth a look;
// beneath, a line shows what was tracked again, in another tone for each version.

import { get } from "./api.js";
import { chooseObject, element, into } from "./panel.js";
import { goTo, stop } from "./player.js";
import { ofRun, on, state, stepOf } from "./state.js";

const HIGH = 29;
const BENEATH = 7;
const [ABSENT, DETECT, , FIRST_KEPT] = [0, 1, 2, 3];
const SAID_ABSENT = 7;
const VERSIONS = ["#e3e9ef", "#8494a3"];
const canvas = document.getElementById("lane-canvas");
const range = { first: 0, end: 1 };
let cells = null;
let request = 0;

const ratio = () => window.devicePixelRatio;
const xOf = (step) => Math.round(((step - range.first) / (range.end - range.first)) * canvas.width);

async function fetchCells() {
  const own = ++request;
  const count = Math.min(2048, Math.max(64, Math.round(canvas.clientWidth)));
  const found = await ofRun((run) => get(run, "lanes", { ...range, count }));
  if (own !== request || found?.stages.length !== state.info.objects.length) return; // it may be of the next version
  cells = found;
  draw();
}

export function whole() {
  Object.assign(range, { first: 0, end: state.info.frames });
  cells = null;
  document.getElementById("lane-names").replaceChildren(
    ...state.info.objects.map((x) => element("li", `${x.id} ${x.label}`, { title: x.label })),
  );
  draw();
  fetchCells();
}

// Look closer, or see more, around the present frame.
export function lookCloser(factor) {
  const { frames } = state.info;
  const length = Math.min(frames, Math.max(Math.min(frames, 32), Math.round((range.end - range.first) / factor)));
  const first = Math.min(frames - length, Math.max(0, state.step - Math.floor(length / 2)));
  Object.assign(range, { first, end: first + length });
  draw(); // what is clicked on is what is seen
  fetchCells();
}

function follow() {
  if (state.step >= range.first && state.step < range.end) return draw();
  const length = range.end - range.first;
  const first = Math.min(state.info.frames - length, Math.max(0, state.step - Math.floor(length / 4)));
  Object.assign(range, { first, end: first + length });
  draw();
  return fetchCells();
}

function draw() {
  const { objects } = state.info;
  const unit = ratio();
  canvas.style.height = `${HIGH * objects.length}px`;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * unit));
  canvas.height = HIGH * objects.length * unit;
  const pen = canvas.getContext("2d");
  objects.forEach((x, row) => lane(pen, x, row, unit));
  const x = xOf(state.step + 0.5);
  pen.fillStyle = "#fff";
  pen.fillRect(x - unit, 0, 2 * unit, canvas.height);
}

function lane(pen, object, row, unit) {
  const top = row * HIGH * unit;
  const high = (HIGH - BENEATH) * unit;
  pen.fillStyle = object.id === state.object ? "#2c3a48" : "#1b2530";
  pen.fillRect(0, top, canvas.width, high);
  if (cells) {
    const { borders, stages, scores, passes } = cells;
    stages[row].forEach((stage, i) => {
      const [left, right] = [xOf(borders[i]), Math.max(xOf(borders[i + 1]), xOf(borders[i]) + unit)];
      const version = passes[row][i];
      if (version) {
        pen.fillStyle = VERSIONS[version % 2];
        pen.fillRect(left, top + high + unit, right - left, 2 * unit);
      }
      if (stage === ABSENT) return;
      const part = stage === DETECT ? 0.35 : 0.65;
      pen.fillStyle = stage >= FIRST_KEPT ? "#fff" : object.color;
      if (stage === SAID_ABSENT) pen.fillRect(left, top + high - 3 * unit, right - left, 3 * unit);
      else if (stage >= FIRST_KEPT) pen.fillRect(left, top + 0.15 * high, Math.max(right - left, 2 * unit), 0.85 * high);
      else pen.fillRect(left, top + (1 - part) * high, right - left, part * high);
    });
    score(pen, scores[row], borders, top, high, unit);
  }
  pen.lineWidth = 2 * unit;
  pen.strokeStyle = "#ffd166";
  for (const x of state.draft.filter((y) => y.object === object.id)) {
    const [left, right] = [xOf(stepOf(x.frame)), xOf(stepOf(x.end ?? x.frame) + 1)];
    pen.strokeRect(left - unit, top + unit, Math.max(right - left, 3 * unit) + 2 * unit, high - 2 * unit);
  }
  for (const x of state.places.filter((y) => y.object_id === object.id)) {
    const left = xOf(x.step + 0.5);
    pen.beginPath();
    pen.moveTo(left - 5 * unit, top);
    pen.lineTo(left + 5 * unit, top);
    pen.lineTo(left, top + 8 * unit);
    pen.closePath();
    pen.fillStyle = "#ff8c42";
    pen.strokeStyle = "#ff8c42";
    pen.lineWidth = unit;
    if (x.reviewed) pen.stroke();
    else pen.fill();
  }
}

function score(pen, scores, borders, top, high, unit) {
  pen.beginPath();
  let down = false;
  scores.forEach((x, i) => {
    if (x > 100) {
      down = false;
      return;
    }
    const place = [(xOf(borders[i]) + xOf(borders[i + 1])) / 2, top + high - (x / 100) * high];
    pen[down ? "lineTo" : "moveTo"](...place);
    down = true;
  });
  for (const [color, width] of [["#000", 3], ["#e6edf3", 1.2]]) {
    pen.strokeStyle = color;
    pen.lineWidth = width * unit;
    pen.stroke();
  }
}

function stepAt(event) {
  const box = canvas.getBoundingClientRect();
  const part = (event.clientX - box.left) / box.width;
  return Math.min(range.end - 1, Math.max(range.first, Math.floor(range.first + part * (range.end - range.first))));
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  stop();
  const row = Math.floor((event.clientY - canvas.getBoundingClientRect().top) / HIGH);
  chooseObject(row + 1);
  goTo(stepAt(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (event.buttons & 1) goTo(stepAt(event));
});
new ResizeObserver(() => state.info && fetchCells()).observe(canvas.parentElement);
on("chosen", () => {
  const name = document.getElementById("lane-names").children[state.object - 1];
  if (name) into(document.getElementById("lanes"), name);
});
on("moved", follow);
on("draft places look", draw);
