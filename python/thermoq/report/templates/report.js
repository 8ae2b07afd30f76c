(() => {
  "use strict";

  const body = document.getElementById("layer-table").tBodies[0];

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
