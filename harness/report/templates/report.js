"use strict";
// Sorting and filtering of tables; without it the page shows the same tables in the study's order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  table.classList.add("grouped");

  const compare = (a, b, column, sign) => {
    const x = a.cells[column].dataset.sort, y = b.cells[column].dataset.sort;
    if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stays last
    const numeric = heads[column].classList.contains("num");
    return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
  };
  const sort = (column) => {
    // First ascending, then descending, then the order of the study again.
    const next = { none: "ascending", ascending: "descending", descending: "none" };
    const state = next[heads[column].getAttribute("aria-sort")];
    heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? state : "none"));
    const sign = state === "descending" ? -1 : 1;
    const rows = [...original];
    if (state !== "none") rows.sort((a, b) => compare(a, b, column, sign));
    table.classList.toggle("grouped", state === "none");
    body.append(...rows);
  };
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => sort(i)));

  const controls = document.querySelector(`.controls[data-for="${table.id}"]`);
  const [find, attack, defense, shown] =
    [".find", ".by-attack", ".by-defense", ".shown"].map((s) => controls.querySelector(s));
  // A table that has no attacks and defenses has no choices of them.
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of original) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word))
        && (!attack?.value || row.dataset.attack === attack.value)
        && (!defense?.value || row.dataset.defense.split("|").includes(defense.value)));
      count += !row.hidden;
    }
    shown.textContent = count < original.length ? `${count} of ${original.length} rows` : "";
  };
  for (const control of [find, attack, defense]) control?.addEventListener("input", filter);
}
