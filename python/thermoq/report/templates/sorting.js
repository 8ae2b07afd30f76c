// Sorting of every table of the class "sortable". Headers become buttons only here, so that a page
// without scripts shows no dead ones.
(() => {
  "use strict";

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (text === "–") return null;
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text;
  };

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), undefined, { numeric: true });

  const makeSortable = (table) => {
    const body = table.tBodies[0];
    const headers = [...table.tHead.rows[0].cells];

    const sortBy = (column) => {
      const header = headers[column];
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      const keyed = [...body.rows].map((row) => [valueOf(row, column), row]);
      keyed.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null); // missing ones go last
        return ascending ? compare(a, b) : compare(b, a);
      });
      body.append(...keyed.map(([, row]) => row));
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    };

    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sortBy(column));
      header.append(button);
    });
  };

  document.querySelectorAll("table.sortable").forEach(makeSortable);
})();
