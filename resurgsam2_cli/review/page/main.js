// Opens a run, keeps up with what happens to it, and ties the parts together.

import { get, leave } from "./api.js";
import "./keys.js";
import { whole } from "./lanes.js";
import "./panel.js";
import { view } from "./picture.js";
import { goTo, stop } from "./player.js";
import { showRuns } from "./runs.js";
import { attempt, clear, emit, ofRun, on, say, state, tell } from "./state.js";
import { change, sent, take } from "./words.js";

const QUICK = 400; // milliseconds between looks while something is on its way
const SLOW = 4000;
let looking = Promise.resolve();
let asked = Promise.resolve(); // the looks that were not answered yet
let wanted = null; // the run that was asked for last

async function open(run) {
  stop();
  wanted = run;
  say(""); // what was said of another run
  document.getElementById("picture").focus(); // a key is not for the button that the list came from
  const info = await attempt(() => get(run), () => run === wanted);
  if (!info) return;
  if (state.run !== null && state.run !== run) leaveBehind(state.run);
  Object.assign(state, { run, info, step: 0, object: 1, draft: [], places: [], place: null, painted: null, job: null, from: null, adds: false, mayWrite: "" });
  state.stored.clear();
  state.hidden.clear();
  emit("opened");
  emit("run");
  whole();
  await keepUp();
  if (state.info === info) await goTo(0);
  if (state.info === info) findPlaces();
}

// Others may correct a run that is not shown any more, once all that was said of it has arrived, and no look at it is on
// its way, which would keep them out again.
async function leaveBehind(run) {
  await Promise.all([sent(), asked]);
  if (run !== state.run) leave(run);
}

async function findPlaces() {
  const { info } = state;
  const places = await ofRun((run) => get(run, "places"));
  if (!places || state.info !== info) return;
  state.places = places.filter((x) => x.object_id <= info.objects.length); // they may be of the next version
  const { place } = state;
  state.place = place && (places.find((x) => x.step === place.step && x.object_id === place.object_id) ?? null);
  emit("places");
}

// The run has another version: show that, at the same frame.
async function renew() {
  const info = await ofRun((run) => get(run));
  if (!info || info.stamp === state.info.stamp) return;
  const count = info.objects.length;
  const { object } = state;
  const isFree = state.from === null && !view.pending && !view.stroke; // nothing is being said of another one
  state.object = state.adds && isFree && count > state.info.objects.length ? count : Math.min(object, count);
  if (object > count) tell("The object that was chosen is not there any more.", "lost");
  if (count > state.info.objects.length) state.adds = false;
  if (state.object !== object) state.from = null;
  for (const id of state.hidden) if (id > count) state.hidden.delete(id);
  state.places = state.places.filter((x) => x.object_id <= count);
  state.info = info;
  state.stored.clear();
  emit("run");
  if (state.object !== object) emit("chosen");
  whole();
  await goTo(state.step);
  findPlaces();
}

async function keepUp() {
  const { run } = state;
  if (run === null) return;
  try {
    const look = get(run, "state");
    asked = Promise.allSettled([asked, look]);
    take(run, await look);
  } catch (error) {
    if (run !== state.run) return;
    tell(error.message, "error");
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
  looking = looking.then(renew, renew);
});
let closed = "";
on("draft", () => {
  if (state.mayWrite) tell(`For looking only: ${state.mayWrite}.`, "closed");
  else if (closed) clear("closed", "error"); // that is over
  closed = state.mayWrite;
});
on("playing", () => {
  document.getElementById("play").textContent = state.playing ? "Stop" : "Play";
});
document.getElementById("runs-button").addEventListener("click", () => showRuns(open));
document.getElementById("take-over").addEventListener("click", async () => {
  if (await change("take-over")) say("");
});
// Nothing can be done to a run as long as there is none.
function stopWithoutRun(event) {
  if (!state.info && event.target.closest?.("main, footer")) event.stopImmediatePropagation();
}
for (const kind of ["pointerdown", "pointermove", "wheel", "dblclick", "click", "input"]) {
  document.addEventListener(kind, stopWithoutRun, { capture: true });
}
addEventListener("pagehide", () => state.run !== null && leave(state.run));
addEventListener("pageshow", (event) => event.persisted && keepUp());

const runs = await attempt(() => get(null));
if (runs?.length === 1) await attempt(() => open(0));
else if (runs) showRuns(open);
keepLooking();
