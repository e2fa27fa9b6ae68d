// The column beside the frame: objects, tools, tracking, and what is worth a look.

import { goTo, stop } from "./player.js";
import { emit, numberOf, on, say, sayLost, shownOf, state, tell } from "./state.js";
import { addObject, cancel, declare, dropDrawing, follow, fromHere, redo, TOOLS, undo } from "./tools.js";

const at = (id) => document.getElementById(id);

// An element with some text, which is never read as anything else.
export function element(name, text = "", options = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  Object.assign(made, options);
  return made;
}

// Bring an element of a list into sight, without moving anything around the list.
export function into(list, item) {
  const [outer, inner] = [list.getBoundingClientRect(), item.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop += inner.top - outer.top;
  else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
}

// Other rows for a list. The focus stays at its place in it: without one, the next key would be for the frame.
function fill(list, rows) {
  const buttons = () => [...list.querySelectorAll("button")];
  const focused = buttons().indexOf(document.activeElement);
  list.replaceChildren(...rows);
  if (focused >= 0) (buttons()[Math.min(focused, rows.length - 1)] ?? at("runs-button")).focus({ preventScroll: true });
}

// A button that is disabled for good would lose the focus, and so would one that is hidden.
const enable = (id, may) => at(id).setAttribute("aria-disabled", String(!may));

function hide(id, hidden, other) {
  if (hidden && at(id) === document.activeElement) at(other).focus();
  at(id).hidden = hidden;
}

document.addEventListener("click", (event) => {
  if (!event.target.closest?.("[aria-disabled=true]")) return;
  event.stopImmediatePropagation();
  if (event.detail > 0) at("picture").focus(); // what was pressed by mouse does not keep the keyboard
}, { capture: true });

// Objects

const STAGES = { detect: "found", track: "tracked", point: "clicked", imported: "taken over", confirmed: "right" };

function status(shown) {
  if (!shown) return "";
  const yours = shown.said ? "you: " : "";
  if (shown.said?.confirmed) return "you: right";
  if (!shown.present) return shown.stage === "absent" ? `${yours}absent` : "absent";
  const kept = shown.said || !["detect", "track"].includes(shown.stage);
  const name = STAGES[shown.stage] ?? shown.stage;
  return yours + name + (kept ? "" : ` ${shown.iou.toFixed(2)}`);
}

let listed = "";

function listObjects() {
  const key = JSON.stringify([state.run, state.info.objects]);
  if (key === listed) return showObjects(); // one of them may just be pressed
  listed = key;
  fill(
    at("objects"),
    state.info.objects.map((x) => {
      const row = element("li", "", { className: "object" });
      const eye = element("input", "", { type: "checkbox", checked: !state.hidden.has(x.id), title: "Show it" });
      eye.setAttribute("aria-label", `Show ${x.label}`);
      eye.addEventListener("change", () => {
        state.hidden[eye.checked ? "delete" : "add"](x.id);
        emit("look");
      });
      const choose = element("button", "", { title: x.text });
      choose.dataset.object = x.id;
      const swatch = element("span", x.id, { className: "swatch" });
      swatch.style.setProperty("--color", x.color);
      choose.append(swatch, element("span", x.label, { className: "label" }), element("span", "", { className: "status" }));
      choose.addEventListener("click", () => chooseObject(x.id));
      row.append(eye, choose);
      return row;
    }),
  );
  return showObjects();
}

export function chooseObject(id) {
  if (!state.info.objects.some((x) => x.id === id)) return;
  state.adds = false; // the person is at something else
  if (id !== state.object) {
    state.object = id;
    state.from = null;
    emit("chosen");
  }
  emit("look");
}

let intoObject = null;

function showObjects() {
  for (const button of at("objects").querySelectorAll("button")) {
    const id = Number(button.dataset.object);
    button.setAttribute("aria-pressed", String(id === state.object));
    if (id === state.object && id !== intoObject) into(at("objects"), button);
    button.querySelector(".status").textContent = status(shownOf(id, state.step));
    button.previousSibling.checked = !state.hidden.has(id);
  }
  intoObject = state.object;
}

// Tools

function listTools() {
  at("tools").replaceChildren(
    ...TOOLS.map(([name, label, key, what]) => {
      const button = element("button", label, { title: `${what} (${key})` });
      button.setAttribute("role", "radio");
      button.dataset.tool = name;
      button.addEventListener("click", () => chooseTool(name));
      return button;
    }),
  );
}

export function chooseTool(name) {
  state.tool = name;
  emit("look");
}

function showTools() {
  for (const button of at("tools").children) {
    button.setAttribute("aria-checked", String(button.dataset.tool === state.tool));
  }
  const locked = Boolean(state.mayWrite);
  for (const id of ["absent", "confirm", "from-here", "undo", "redo", "new-object"]) enable(id, !locked);
  at("from-here").setAttribute("aria-pressed", String(state.from !== null));
  at("from-here").textContent = state.from === null ? "From here" : `From ${state.from}`;
  hide("take-over", !state.mayWrite.includes("another window"), "runs-button");
  at("brush-size").value = state.brush;
  at("opacity").value = 100 * state.opacity;
}

// Tracking

let told = "";

function showJob() {
  const running = state.job?.stage === "running";
  hide("cancel", !running, "runs-button");
  at("progress").hidden = !running;
  enable("follow", !running && !state.mayWrite && state.draft.length);
  const count = state.draft.length;
  const waiting = count ? `${count} correction${count > 1 ? "s" : ""} not tracked from yet` : "";
  at("job").title = at("job").textContent = running
    ? state.job.at === null ? `${state.job.what} …` : `${state.job.frames} masks so far, at frame ${state.job.at}`
    : [state.job?.said, waiting].filter(Boolean).join("; ");
  const key = JSON.stringify(state.job?.stage !== "running" && state.job);
  if (state.job && !running && key !== told) tell(state.job.said, state.job.stage === "failed" ? "error" : "");
  told = key;
}

// Places

export function nextPlace(direction) {
  const { places } = state;
  const left = places.filter((x) => !isReviewed(x) || x === state.place);
  if (!left.some((x) => x !== state.place)) return say(places.length ? "Nothing is left to look at." : "Nothing stands out.");
  const now = left.indexOf(state.place);
  const next = now < 0 ? (direction > 0 ? 0 : left.length - 1) : (now + direction + left.length) % left.length;
  goToPlace(left[next]);
}

const isReviewed = (place) =>
  place.reviewed ||
  state.draft.some((x) => {
    const { seen } = state.info; // frames around a word of a person's that were looked at with it
    return x.object === place.object_id && x.frame - seen <= place.frame && place.frame <= (x.end ?? x.frame) + seen;
  });

function goToPlace(place) {
  stop();
  state.place = place;
  const drops = (place.object_id !== state.object || place.step !== state.step) && dropDrawing();
  chooseObject(place.object_id);
  state.hidden.delete(place.object_id);
  if (drops) sayLost(place.reason);
  else say(place.reason); // the list may be out of sight
  goTo(place.step);
}

function listPlaces() {
  const { places, info } = state;
  intoPlace = null;
  fill(
    at("places"),
    places.map((x) => {
      const button = element("button");
      button.append(element("b", `${info.objects[x.object_id - 1].label} @ ${x.frame}`), element("span", x.reason));
      button.addEventListener("click", () => goToPlace(x));
      const row = element("li");
      row.append(button);
      return row;
    }),
  );
  showPlaces();
}

let intoPlace = null;

// In place, as one of them may just be pressed.
function showPlaces() {
  const left = state.places.filter((x) => !isReviewed(x)).length;
  at("places-title").textContent = `Worth a look: ${left} left`;
  [...at("places").querySelectorAll("button")].forEach((button, i) => {
    const x = state.places[i];
    button.className = isReviewed(x) ? "reviewed" : "";
    button.setAttribute("aria-current", String(x === state.place));
    if (x === state.place && x !== intoPlace) into(at("places"), button);
  });
  intoPlace = state.place;
}

// Where we are

function showWhere() {
  const time = state.stored.get(state.step)?.time;
  const text = `frame ${numberOf(state.step)} of ${numberOf(0)}–${numberOf(state.info.frames - 1)}`;
  at("where").textContent = time === undefined ? text : `${text}, ${clock(time)}`;
}

function clock(seconds) {
  const rest = (seconds % 60).toFixed(2).padStart(5, "0");
  const minutes = Math.floor(seconds / 60) % 60;
  const hours = Math.floor(seconds / 3600);
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function showRun() {
  at("run-name").textContent = state.info.name;
  at("version").textContent = `version ${state.info.version}`;
  document.title = `${state.info.name} – resurgsam2 review`;
  listObjects();
}

listTools();
at("absent").addEventListener("click", () => declare("absent"));
at("confirm").addEventListener("click", () => declare("confirmed"));
at("from-here").addEventListener("click", fromHere);
at("undo").addEventListener("click", undo);
at("redo").addEventListener("click", redo);
at("follow").addEventListener("click", follow);
at("cancel").addEventListener("click", cancel);
at("new-object").addEventListener("click", addObject);
at("opacity").addEventListener("input", () => {
  state.opacity = at("opacity").value / 100;
  emit("look");
});
at("brush-size").addEventListener("input", () => {
  state.brush = Number(at("brush-size").value);
  emit("look");
});
at("next-place").addEventListener("click", () => nextPlace(1));
at("previous-place").addEventListener("click", () => nextPlace(-1));
on("run", showRun);
on("frame draft look", () => {
  showObjects();
  showTools();
});
on("run draft", showJob);
on("run places", listPlaces);
on("frame look draft", showPlaces);
on("moved frame", showWhere);
