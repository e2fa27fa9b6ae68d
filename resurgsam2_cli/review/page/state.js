// What the page shows, and who wants to know when it changes.

import { get } from "./api.js";

export const state = {
  run: null, // its number
  info: null, // what stays the same while this version is shown
  step: 0,
  object: 1, // the chosen one
  hidden: new Set(),
  tool: "click",
  opacity: 0.45,
  brush: 12, // radius in pixels of the video
  from: null, // where a stretch begins that something is to be said of
  draft: [],
  mayWrite: "",
  job: null,
  places: [],
  playing: false,
  stored: new Map(), // frames with their masks, by step
  painted: null, // the step whose picture is there
  place: null, // the place that was gone to last
  adds: false, // whether an object was asked for here, which is chosen as it comes
};

const listeners = new Map();

export function on(names, listener) {
  for (const name of names.split(" ")) {
    if (!listeners.has(name)) listeners.set(name, []);
    listeners.get(name).push(listener);
  }
}

export function emit(name) {
  for (const listener of listeners.get(name) ?? []) listener();
}

const message = document.getElementById("message");
let lasting = false; // whether the message is about something lost, and the person has not gone on since

export function say(text, kind = "") {
  message.textContent = text;
  message.title = text; // there are two lines for it
  message.className = kind;
  lasting = kind === "lost";
}

// Says what was lost, beside what else was.
export function sayLost(text) {
  if (!lasting) say(text, "lost");
  else if (!message.textContent.includes(text)) say(`${message.textContent} ${text}`, "lost");
}

// Takes messages of some kinds away, as they do not hold any more.
export function clear(...kinds) {
  if (!lasting && kinds.includes(message.className)) say("");
}

// Says what nobody asked for: it does not take the place of what was lost.
export function tell(text, kind = "") {
  if (!lasting) say(text, kind);
}

export function goOn() {
  lasting = false;
}

// Does something that may fail, and says so. Once it does not count any more, what comes of it is neither given nor told.
export async function attempt(action, counts = () => true) {
  try {
    const found = await action();
    return counts() ? found : undefined;
  } catch (error) {
    if (counts() && error.name !== "AbortError") tell(error.message, "error");
    return undefined;
  }
}

// The same about the run that is shown: it counts as long as that is.
export function ofRun(action) {
  const { run } = state;
  return attempt(() => action(run), () => run === state.run);
}

export const numberOf = (step) => state.info.first + step * state.info.stride;
export const stepOf = (number) => Math.round((number - state.info.first) / state.info.stride);

// The last word of the draft about an object in a frame.
export function saidOf(object, step) {
  const number = numberOf(step);
  const about = state.draft.filter((x) => x.object === object && x.frame <= number && number <= (x.end ?? x.frame));
  return about.findLast((x) => !x.confirmed) ?? about.at(-1); // "right" says nothing where something else was said
}

// What an object is in a frame: of the draft, or else of the run.
export function shownOf(object, step) {
  const there = state.stored.get(step)?.objects[object - 1];
  const said = saidOf(object, step);
  if (said?.absent) return { stage: "absent", present: false, counts: null, said };
  if (said?.mask) return { stage: said.points || said.box ? "clicked" : "drawn", present: true, counts: said.mask.counts, said };
  return there && { ...there, said };
}

const CHUNK = 32;
const HELD = 1024;
const coming = new Map();

// The frames around a step, with their masks.
export async function load(step) {
  if (state.stored.has(step)) return state.stored.get(step);
  const first = Math.floor(step / CHUNK) * CHUNK;
  const { run, info } = state;
  const key = `${run} ${info.stamp} ${first}`;
  if (!coming.has(key)) {
    const end = Math.min(info.frames, first + CHUNK);
    coming.set(key, get(run, "masks", { first, end }).finally(() => coming.delete(key)));
  }
  const frames = await coming.get(key);
  if (state.info !== info) return state.run === run ? load(step) : undefined;
  for (const x of frames) state.stored.set(x.step, x);
  while (state.stored.size > HELD) state.stored.delete(state.stored.keys().next().value);
  return state.stored.get(step);
}
