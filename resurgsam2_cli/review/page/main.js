// Opens a run, keeps up with what happens to it, and ties the parts together.

import { get, leave } from "./api.js";
import "./keys.js";
import { whole } from "./lanes.js";
import "./panel.js";
import { goTo, stop } from "./player.js";
import { showRuns } from "./runs.js";
import { attempt, emit, ofRun, on, say, state } from "./state.js";
import { answers, change, take } from "./tools.js";

const QUICK = 400; // milliseconds between looks while something is on its way
const SLOW = 4000;
let looking = Promise.resolve();
let wanted = null; // the run that was asked for last

async function open(run) {
  stop();
  wanted = run;
  say(""); // what was said of another run
  const info = await attempt(async () => {
    try {
      return await get(run);
    } catch (error) {
      if (run === wanted) throw error;
      return undefined;
    }
  });
  if (!info || run !== wanted) return;
  if (state.run !== null && state.run !== run) leave(state.run);
  Object.assign(state, { run, info, step: 0, object: 1, draft: [], places: [], place: null, painted: null, job: null, from: null });
  state.stored.clear();
  state.hidden.clear();
  emit("run");
  whole();
  await keepUp();
  if (state.info === info) await goTo(0);
  if (state.info === info) await findPlaces();
}

async function findPlaces() {
  const { info } = state;
  const places = await ofRun((run) => get(run, "places"));
  if (!places || state.info !== info) return;
  state.places = places;
  const { place } = state;
  state.place = place && (places.find((x) => x.step === place.step && x.object_id === place.object_id) ?? null);
  emit("places");
}

// The run has another version: show that, at the same frame.
async function renew() {
  const info = await ofRun((run) => get(run));
  if (!info) return;
  if (info.objects.length > state.info.objects.length) state.object = info.objects.length; // the new one
  state.info = info;
  state.stored.clear();
  state.object = Math.min(state.object, info.objects.length);
  emit("run");
  whole();
  await goTo(Math.min(state.step, info.frames - 1));
  await findPlaces();
}

async function keepUp() {
  const { run } = state;
  if (run === null) return;
  try {
    const before = answers;
    const found = await get(run, "state");
    if (run === state.run && answers === before) take(found); // else it may be older than what was heard meanwhile
  } catch (error) {
    if (run !== state.run) return;
    say(error.message, "error");
    if (error.status === 0 || error.status === 404) {
      state.mayWrite = "the program does not answer";
      emit("draft");
    }
  }
}

async function keepLooking() {
  await keepUp();
  setTimeout(keepLooking, state.job?.stage === "running" ? QUICK : SLOW);
}

on("stale", () => {
  looking = looking.then(renew);
});
let closed = "";
on("draft", () => {
  if (state.mayWrite) say(`For looking only: ${state.mayWrite}.`);
  else if (closed) say(""); // that is over
  closed = state.mayWrite;
});
on("playing", () => {
  document.getElementById("play").textContent = state.playing ? "Stop" : "Play";
});
document.getElementById("runs-button").addEventListener("click", () => showRuns(open));
document.getElementById("take-over").addEventListener("click", async () => {
  if (await change("take-over")) say("");
});
addEventListener("pagehide", () => state.run !== null && leave(state.run));
addEventListener("pageshow", (event) => event.persisted && keepUp());

const runs = await attempt(() => get(null));
if (runs?.length === 1) await open(0);
else if (runs) showRuns(open);
keepLooking();
