(() => {
  "use strict";

  // Sorting. Headers become buttons only here, so that a page without scripts shows no dead ones.
  const table = document.getElementById("layer-table");
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];

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

  // Filtering: every word must occur somewhere in the row.
  const form = document.querySelector(".filter");
  const input = document.getElementById("layer-filter");
  const count = document.getElementById("layer-count");
  const haystacks = new Map([...body.rows].map((row) => [row, row.textContent.toLowerCase()]));
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [row, text] of haystacks) {
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = words.length ? `${shown} of ${haystacks.size} layers` : "";
  };
  input.addEventListener("input", filter);
  // A link to a layer must not lead to a hidden row.
  window.addEventListener("hashchange", () => {
    const row = document.getElementById(location.hash.slice(1));
    if (row?.hidden) {
      input.value = "";
      filter();
      row.scrollIntoView({ block: "center" });
    }
  });

  // Copying the next command; without clipboard access the text is selected instead.
  const command = document.getElementById("next-command");
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy";
  copy.textContent = "Copy";
  copy.setAttribute("aria-live", "polite");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command);
      copy.textContent = "Selected";
    }
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  });
  command.parentElement.after(copy);

  // On paper every table is shown, whatever was folded on the screen.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((details) => (details.open = true));
  });
  window.addEventListener("afterprint", () => folded.forEach((details) => (details.open = false)));
})();
