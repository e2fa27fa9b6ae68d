// What the person says, on its way to the server: one word after the other, each about the version it was said of.

import { get, post } from "./api.js";
import { view } from "./picture.js";
import { clear, emit, goOn, numberOf, ofRun, on, say, sayLost, state } from "./state.js";

const unanswered = new Set();
let queue = Promise.resolve();
let changes = Promise.resolve();
const lost = []; // words that were not taken, and why
let newest = 0; // the number of the newest answer
const stamps = new Map(); // the last version that was heard of, by run

// Fulfilled once all that was said so far is answered.
export const sent = () => Promise.all([queue, changes]);

// Whether a word is about an object in a frame of a run.
const isAbout = (x, run, { object, frame }) => x.run === run && x.content.object === object && x.content.frame === frame;

// What was said of an object in a frame of the run that is shown, and not answered yet.
export const unansweredOf = (place) => [...unanswered].filter((x) => x.what === "say" && isAbout(x, state.run, place));

// Whether another version of the run is there, or on its way, than the one that is shown.
export const isBehind = () => (stamps.get(state.run) ?? state.info.stamp) !== state.info.stamp;

// What says the same whatever the version holds that has come meanwhile.
const repeats = (what, content) => what === "say" && !content.confirmed;

// What is about the words before it: without them it is not what the person meant.
const WITHOUT = {
  undo: "Nothing was taken back.",
  redo: "Nothing was said again.",
  follow: "Tracking was not begun.",
  confirmed: "It was not said to be right.",
  points: "The click after it was not sent.",
};

// What to say of a word that came after one that was lost, and was meant with it; undefined if it stands for itself.
function without({ run, what, content, lost: before }) {
  const kind = content.confirmed ? "confirmed" : content.points ? "points" : what;
  const isMeant = (x) => (kind === "points" ? isAbout(x, run, content) : x.run === run);
  return lost.slice(before).some(isMeant) ? WITHOUT[kind] : undefined;
}

// Why a word was not taken, with what it was about if that is not what is shown.
function reasonOf({ run, info, content }, error) {
  if (run !== state.run) return `${info.name}: ${error.message}`;
  const { object, frame } = content;
  if (!object || (object === state.object && frame === numberOf(state.step))) return error.message;
  return `${info.objects[object - 1].label} @ ${frame}: ${error.message}`;
}

// Send a word to the server, which has it on its disk before it answers.
export function send(what, content = {}) {
  const { run, info } = state;
  const word = { run, info, what, content, lost: lost.length };
  unanswered.add(word);
  if (what === "say") state.hidden.delete(content.object); // what comes of it is to be seen
  goOn();
  queue = queue.then(() => deliver(word));
  return queue;
}

async function deliver(word) {
  const { run, what } = word;
  try {
    const notDone = without(word);
    if (notDone) {
      sayLost(lost.findLast((x) => x.run === run).reason);
      return sayLost(notDone);
    }
    if (state.run === run && state.mayWrite) throw new Error(`Not changed: ${state.mayWrite}.`);
    const found = await posted(word);
    if (unanswered.size === 1 && run === state.run) clear("wait", "error", "lost");
    take(run, found);
  } catch (error) {
    const reason = reasonOf(word, error);
    if (what === "add") state.adds = false;
    if (what !== "say" && what !== "add") return say(reason, "error");
    lost.push({ ...word, reason });
    sayLost(reason);
  } finally {
    unanswered.delete(word);
  }
  return undefined;
}

async function posted({ run, info, what, content }) {
  const isOfOne = what === "undo" || what === "redo" || content.confirmed; // of the version that was seen
  try {
    return await post(run, what, { ...content, stamp: isOfOne ? info.stamp : (stamps.get(run) ?? info.stamp) });
  } catch (error) {
    if (error.status !== 409) throw error;
    if (state.run === run) emit("stale");
    const { stamp } = await get(run);
    stamps.set(run, stamp);
    if (!repeats(what, content)) throw new Error("The run has changed meanwhile: look again, then say it again.");
    return post(run, what, { ...content, stamp });
  }
}

// Something that the server does at once; gives whether it did.
export async function change(what) {
  const { run } = state;
  goOn();
  const asked = ofRun(() => post(run, what));
  changes = Promise.allSettled([changes, asked]);
  const found = await asked;
  if (found) take(run, found);
  return Boolean(found);
}

// What the server says of a run, if that is shown and nothing newer was heard.
export function take(run, found) {
  if (run !== state.run || found.answer <= newest) return;
  newest = found.answer;
  const before = JSON.stringify([state.draft, state.mayWrite, state.job]);
  Object.assign(state, { draft: found.draft, mayWrite: found.may_write, job: found.job });
  const asksForOne = [...unanswered].some((x) => x.what === "add");
  if (found.job && !["running", "done"].includes(found.job.stage) && !asksForOne) state.adds = false;
  stamps.set(run, found.stamp);
  if (isBehind()) emit("stale");
  if (JSON.stringify([state.draft, state.mayWrite, state.job]) !== before) emit("draft");
}

on("run", () => stamps.delete(state.run));
addEventListener("beforeunload", (event) => {
  if (unanswered.size || view.pending?.polygon || view.stroke) event.preventDefault();
});
