"use strict";

const announcement = document.getElementById("status");
const boxes = [...document.querySelectorAll("#shown input")];

function show() {
  const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  for (const part of document.querySelectorAll("[data-arm]")) {
    part.toggleAttribute("hidden", !shown.has(part.dataset.arm));
  }
  announcement.textContent = `${shown.size} of ${boxes.length} runs shown`;
}

function compare(one, other) {
  const values = [one, other].map((cell) => Number.parseFloat(cell.dataset.value ?? "NaN"));
  const missing = values.map(Number.isNaN);
  if (missing[0] && missing[1]) return { order: one.textContent.localeCompare(other.textContent) };
  if (missing[0] || missing[1]) return { order: missing[0] ? 1 : -1, fixed: true };
  return { order: values[0] - values[1] };
}

function sort(heading) {
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  const body = heading.closest("table").tBodies[0];
  const rows = [...body.rows].sort((one, other) => {
    const cells = [one, other].map((row) => row.cells[heading.cellIndex]);
    const { order, fixed } = compare(...cells);
    return rising || fixed ? order : -order;
  });
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  body.append(...rows);
  announcement.textContent = `sorted by ${heading.textContent}, ${heading.getAttribute("aria-sort")}`;
}

for (const box of boxes) box.addEventListener("change", show);
for (const button of document.querySelectorAll(".sortable thead button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
