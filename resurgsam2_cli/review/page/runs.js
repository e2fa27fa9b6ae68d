// All runs of the page: how much of each was reviewed, and what is left.

import { get } from "./api.js";
import { element } from "./panel.js";
import { attempt } from "./state.js";

const dialog = document.getElementById("runs");

function row(cells, name = "td") {
  const made = element("tr");
  made.append(...cells.map((x) => (x instanceof Node ? x : element(name, x))));
  return made;
}

const FEW = 4;

// The objects of a run; of many, the first ones, so that the list stays one.
function objectsOf(labels) {
  const all = labels.join(", ");
  const left = labels.length - FEW;
  const shown = left > 1 ? `${labels.slice(0, FEW).join(", ")}, and ${left} more` : all;
  return element("td", shown, { title: all, className: "names" });
}

let asks = false;

export async function showRuns(open) {
  if (asks || dialog.open) return; // else it would be filled again under the pointer
  asks = true;
  const runs = await attempt(() => get(null));
  asks = false;
  if (!runs) return;
  const table = document.getElementById("runs-table");
  const wrong = element("ul");
  document.getElementById("runs-wrong").replaceChildren(wrong);
  table.replaceChildren(row(["run", "objects", "frames", "version", "said", "reviewed", "left"], "th"));
  dialog.showModal();
  for (const [number, x] of runs.entries()) {
    const name = element("button", x.name);
    name.addEventListener("click", () => {
      dialog.close();
      open(number);
    });
    const cell = element("td");
    cell.append(name);
    if (x.error) {
      table.append(row([cell, x.error]));
      continue;
    }
    const [reviewed, left] = [0, 0].map(() => element("td", "…", { className: "count" }));
    table.append(row([cell, objectsOf(x.objects), String(x.frames), String(x.version), String(x.said), reviewed, left]));
    x.cells = [reviewed, left];
  }
  // One after the other: each is read as a whole. What comes leaves the names where they are: one may be pointed at.
  for (const [number, x] of runs.entries()) {
    if (!dialog.open || !x.cells) continue;
    try {
      const found = await get(number, "counted");
      x.cells[0].textContent = String(found.reviewed);
      x.cells[1].textContent = String(found.left);
    } catch (error) { // about this run alone: the others go on
      for (const cell of x.cells) cell.textContent = "–";
      wrong.append(element("li", error.message));
    }
  }
}
