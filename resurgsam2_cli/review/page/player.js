// Goes to frames, plays them at the speed of the source, and fetches those that come next.

import { picture } from "./api.js";
import { isShown, setBitmap, widthWanted } from "./picture.js";
import { emit, load, ofRun, on, state } from "./state.js";

const HELD = 48;
const AHEAD = 16;
const bitmaps = new Map(); // promises, by step
let last = 0; // the number of the last request to go somewhere
let shown = 0;
let turn = 0; // the number of the last request to play

function bitmap(step) {
  const width = widthWanted();
  const key = `${state.run} ${width} ${step}`;
  if (!bitmaps.has(key)) {
    const coming = picture(state.run, step, width);
    coming.catch(() => bitmaps.delete(key));
    bitmaps.set(key, coming);
    while (bitmaps.size > HELD) {
      const oldest = bitmaps.keys().next().value;
      bitmaps.get(oldest).then((x) => setTimeout(() => isShown(x) || x.close(), 5000), () => {});
      bitmaps.delete(oldest);
    }
  }
  return bitmaps.get(key);
}

// Show a frame; of several requests, the last one counts.
export async function goTo(step) {
  step = Math.min(state.info.frames - 1, Math.max(0, step));
  const request = ++last;
  const { run } = state;
  const moves = step !== state.step;
  state.step = step;
  if (moves) emit("moved");
  const [image] = await Promise.all([ofRun(() => bitmap(step)), ofRun(() => load(step))]);
  if (run !== state.run || (request < last && state.playing === false)) return;
  if (request < shown) return;
  shown = request;
  setBitmap(image ?? null);
  state.painted = step;
  emit("frame");
}

export const move = (by) => goTo(state.step + by);

export async function play() {
  if (state.playing) return stop();
  state.playing = true;
  emit("playing");
  const own = ++turn;
  const { info } = state;
  const goesOn = () => state.playing && own === turn && state.info === info;
  if (state.step >= info.frames - 1) await goTo(0);
  const started = performance.now();
  const first = state.step;
  const begin = (await ofRun(() => load(first)))?.time ?? 0;
  let step = first;
  while (goesOn() && step < info.frames - 1) {
    for (let i = 1; i <= AHEAD && step + i < info.frames; i++) bitmap(step + i).catch(() => {});
    // The last frame that is due, so that a slow machine skips rather than lags.
    const now = begin + (performance.now() - started) / 1000;
    let next = step + 1;
    await ofRun(() => load(Math.min(info.frames - 1, next + 24)));
    if (!goesOn()) break;
    while (next < info.frames - 1 && (state.stored.get(next + 1)?.time ?? Infinity) <= now) next++;
    const due = state.stored.get(next)?.time ?? now;
    if (due > now) await new Promise((resolve) => setTimeout(resolve, 1000 * (due - now)));
    if (!goesOn()) break;
    await goTo(next);
    step = next;
  }
  if (own === turn) stop();
}

export function stop() {
  if (!state.playing) return;
  state.playing = false;
  emit("playing");
}

// Another version has other masks, but the same pictures: only the run counts.
on("run", () => bitmaps.clear());

let later = 0;
on("zoomed", () => {
  clearTimeout(later);
  later = setTimeout(() => state.playing || goTo(state.step), 250); // a sharper picture
});
