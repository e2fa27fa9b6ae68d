// The frame, as large as fits, with the outline and the number of each mask; zoom, and a cross for the keyboard.

import { decode } from "./rle.js";
import { emit, on, shownOf, state } from "./state.js";

const canvas = document.getElementById("picture");
const layer = new OffscreenCanvas(1, 1);
export const view = { zoom: 1, x: 0.5, y: 0.5, scale: 1, left: 0, top: 0, cross: null, pending: null, stroke: null };
let bitmap = null;
let wanted = false;
const masks = new Map(); // decoded, by text

// Whether a picture may still have to be drawn.
export const isShown = (image) => image === bitmap;

export function setBitmap(next) {
  bitmap = next;
  draw();
}

// The mask of an object in the present frame, to be changed by its caller.
export function maskOf(object) {
  const { width, height } = state.info;
  return Uint8Array.from(decoded(shownOf(object, state.step)?.counts, width, height).mask);
}

function decoded(counts, width, height) {
  const key = `${width} ${height} ${counts ?? ""}`;
  if (!masks.has(key)) {
    const mask = decode(counts, width, height);
    masks.set(key, { mask, box: boxOf(mask, width) });
    while (masks.size > 48) masks.delete(masks.keys().next().value);
  }
  return masks.get(key);
}

function boxOf(mask, width) {
  let left = width;
  let right = -1;
  let top = -1;
  let bottom = -1;
  let any = mask.indexOf(1);
  for (; any >= 0; any = mask.indexOf(1, any + 1)) {
    const y = Math.floor(any / width);
    const end = mask.indexOf(0, any);
    const last = (end < 0 || end >= (y + 1) * width ? (y + 1) * width : end) - 1;
    left = Math.min(left, any - y * width);
    right = Math.max(right, last - y * width);
    if (top < 0) top = y;
    bottom = y;
    any = last;
  }
  return top < 0 ? null : { left, right, top, bottom };
}

export const rgbOf = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));

// One mask into the layer: its inside with the opacity asked for, its border opaque.
function paint(pixels, { mask, box }, color, thick) {
  const { width, height } = state.info;
  const [r, g, b] = rgbOf(color);
  const inside = Math.round(255 * state.opacity);
  for (let y = box.top; y <= box.bottom; y++) {
    for (let x = box.left; x <= box.right; x++) {
      const at = y * width + x;
      if (!mask[at]) continue;
      const border =
        (x >= thick && !mask[at - thick]) ||
        (x + thick < width && !mask[at + thick]) ||
        (y >= thick && !mask[at - thick * width]) ||
        (y + thick < height && !mask[at + thick * width]);
      const alpha = border ? 255 : inside;
      if (!alpha) continue;
      const i = 4 * at;
      pixels[i] = r;
      pixels[i + 1] = g;
      pixels[i + 2] = b;
      pixels[i + 3] = alpha;
    }
  }
}

function place() {
  const { width, height } = state.info;
  const fit = Math.min(canvas.width / width, canvas.height / height);
  view.scale = fit * view.zoom;
  view.left = canvas.width / 2 - view.x * width * view.scale;
  view.top = canvas.height / 2 - view.y * height * view.scale;
  if (view.zoom === 1) {
    view.left = (canvas.width - width * view.scale) / 2;
    view.top = (canvas.height - height * view.scale) / 2;
  }
}

export function draw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => {
    wanted = false;
    if (state.info) paintAll();
  });
}

function paintAll() {
  const ratio = window.devicePixelRatio;
  const box = canvas.parentElement.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(box.width * ratio));
  canvas.height = Math.max(1, Math.round(box.height * ratio));
  place();
  const { width, height, objects } = state.info;
  const context = canvas.getContext("2d");
  context.setTransform(view.scale, 0, 0, view.scale, view.left, view.top);
  context.imageSmoothingEnabled = view.scale < 3;
  if (bitmap) context.drawImage(bitmap, 0, 0, width, height);
  if (layer.width !== width || layer.height !== height) Object.assign(layer, { width, height });
  const pen = layer.getContext("2d");
  const image = pen.createImageData(width, height);
  const thick = Math.max(1, Math.round(1.6 / view.scale));
  const labels = [];
  // The chosen one lies on top of the others.
  for (const x of [...objects].sort((a, b) => (a.id === state.object) - (b.id === state.object))) {
    const stroke = view.stroke && x.id === state.object;
    if (state.hidden.has(x.id) && !stroke) continue;
    const shown = stroke ? { mask: view.stroke, box: boxOf(view.stroke, width) } : decoded(shownOf(x.id, state.step)?.counts, width, height);
    if (!shown.box) continue;
    paint(image.data, shown, x.color, thick * (x.id === state.object ? 2 : 1));
    labels.push([x, shown.box]);
  }
  pen.putImageData(image, 0, 0);
  context.drawImage(layer, 0, 0);
  context.setTransform(1, 0, 0, 1, 0, 0);
  const taken = [];
  for (const [x, shown] of labels.reverse()) label(context, x, shown, ratio, taken);
  clicks(context, ratio);
  pending(context, ratio);
  cross(context, ratio);
}

const screen = (x, y) => [view.left + x * view.scale, view.top + y * view.scale];

// The number of an object in the middle of its mask, or below that where another number has the place.
function label(context, x, box, ratio, taken) {
  let [left, top] = screen((box.left + box.right) / 2, (box.top + box.bottom) / 2);
  const size = 18 * ratio;
  while (taken.some(([a, b]) => Math.abs(a - left) < size && Math.abs(b - top) < size)) top += size;
  taken.push([left, top]);
  context.font = `bold ${14 * ratio}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 4 * ratio;
  context.strokeStyle = "#000";
  context.strokeText(x.id, left, top);
  context.fillStyle = "#fff";
  context.fillText(x.id, left, top);
}

// The clicks and the box of the draft: a plus on the object, a minus beside it.
function clicks(context, ratio) {
  const said = shownOf(state.object, state.step)?.said;
  if (!said) return;
  for (const [x, y, positive] of said.points ?? []) {
    const [left, top] = screen(x, y);
    context.beginPath();
    context.arc(left, top, 7 * ratio, 0, 7);
    context.fillStyle = positive ? "#1a7f37" : "#b42318";
    context.fill();
    context.strokeStyle = "#fff";
    context.lineWidth = 2 * ratio;
    context.moveTo(left - 4 * ratio, top);
    context.lineTo(left + 4 * ratio, top);
    if (positive) {
      context.moveTo(left, top - 4 * ratio);
      context.lineTo(left, top + 4 * ratio);
    }
    context.stroke();
  }
  if (said.box) rectangle(context, said.box, ratio);
}

function rectangle(context, [x, y, width, height], ratio) {
  const [left, top] = screen(x, y);
  context.strokeStyle = "#fff";
  context.lineWidth = 2 * ratio;
  context.setLineDash([6 * ratio, 4 * ratio]);
  context.strokeRect(left, top, width * view.scale, height * view.scale);
  context.setLineDash([]);
}

// What is being drawn: a box or a polygon that is not closed.
function pending(context, ratio) {
  if (!view.pending) return;
  if (view.pending.box) return rectangle(context, view.pending.box, ratio);
  context.beginPath();
  view.pending.polygon.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](...screen(x, y)));
  context.strokeStyle = "#fff";
  context.lineWidth = 2 * ratio;
  context.stroke();
  for (const [x, y] of view.pending.polygon) {
    const [left, top] = screen(x, y);
    context.fillStyle = "#fff";
    context.fillRect(left - 3 * ratio, top - 3 * ratio, 6 * ratio, 6 * ratio);
  }
}

function cross(context, ratio) {
  if (!view.cross) return;
  const [left, top] = screen(...view.cross);
  const painted = state.tool === "brush" || state.tool === "eraser";
  const radius = painted ? state.brush * view.scale : 12 * ratio;
  for (const [color, width] of [["#000", 4], ["#fff", 1.5]]) {
    context.beginPath();
    context.arc(left, top, radius, 0, 7);
    if (!painted) {
      context.moveTo(left - radius, top);
      context.lineTo(left + radius, top);
      context.moveTo(left, top - radius);
      context.lineTo(left, top + radius);
    }
    context.strokeStyle = color;
    context.lineWidth = width * ratio;
    context.stroke();
  }
}

// A place on the screen, in pixels of the video.
export function inVideo(event) {
  const ratio = window.devicePixelRatio;
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) * ratio - view.left) / view.scale;
  const y = ((event.clientY - box.top) * ratio - view.top) / view.scale;
  return [x, y];
}

export function inside([x, y]) {
  const { width, height } = state.info;
  return [Math.min(width - 0.01, Math.max(0, x)), Math.min(height - 0.01, Math.max(0, y))];
}

export function zoom(factor, [x, y] = view.cross ?? [view.x * state.info.width, view.y * state.info.height]) {
  const { width, height } = state.info;
  const before = view.scale;
  view.zoom = Math.min(32, Math.max(1, view.zoom * factor));
  const after = view.zoom * Math.min(canvas.width / width, canvas.height / height);
  // What lies under the cross stays there.
  const left = view.left + x * before;
  const top = view.top + y * before;
  view.x = (x + (canvas.width / 2 - left) / after) / width;
  view.y = (y + (canvas.height / 2 - top) / after) / height;
  pan(0, 0);
  emit("zoomed");
}

export function pan(x, y) {
  const { width, height } = state.info;
  view.x = Math.min(1, Math.max(0, view.x - x / (view.scale * width)));
  view.y = Math.min(1, Math.max(0, view.y - y / (view.scale * height)));
  draw();
}

// How wide a picture is worth asking for.
export const widthWanted = () => {
  const wide = canvas.width * Math.min(4, view.zoom);
  return Math.min(3840, Math.ceil(wide / 320) * 320);
};

new ResizeObserver(draw).observe(canvas.parentElement);
on("frame draft look", draw);
on("opened", () => Object.assign(view, { zoom: 1, x: 0.5, y: 0.5, cross: null }));
