// What the theme leaves undone for readers with a screen reader or a keyboard.
document.addEventListener("DOMContentLoaded", () => {
  // A name that is not what stands on a button cannot be spoken to it: the text is the name.
  document.querySelectorAll("summary[aria-label], button.search-button-field")
    .forEach(button => button.removeAttribute("aria-label"));
  document.querySelectorAll("button.theme-switch-button").forEach(button => {
    const name = document.createElement("span");
    name.className = "visually-hidden";
    name.textContent = button.getAttribute("aria-label");
    button.append(name);
    button.removeAttribute("aria-label");
  });
  // Entries of the bibliography say themselves what they are; their list holds links, too.
  document.querySelectorAll(".citation-list[role=list]").forEach(list => list.removeAttribute("role"));
  // The arrows of the sidebar open the pages of the part beside them.
  document.querySelectorAll(".bd-sidebar-primary .has-children > details > summary").forEach(arrow => {
    arrow.setAttribute("aria-label", "Pages of " + arrow.closest("li").querySelector("a").textContent.trim());
  });
  // On a phone the rows of a wide table stand below each other (book.css), each cell with its column's name;
  // those of a record, of short numbers, scroll sideways.
  document.querySelectorAll("article table:not(.record)").forEach(table => {
    const names = [...table.querySelectorAll("thead th")].map(name => name.textContent.trim());
    if (names.length < 3 || table.querySelector("tbody th")) return;
    table.classList.add("stacks");
    const short = cell => cell.textContent.trim().length < 16 && !cell.querySelector("img, pre");
    table.querySelectorAll("tbody td:not(:first-child)").forEach(cell => {
      if (!cell.textContent.trim() && !cell.querySelector("img")) cell.classList.add("void");
      else if (short(cell)) cell.classList.add("short"); // beside its column's name, not below it
    });
    table.querySelectorAll("tbody tr").forEach(row => [...row.cells].forEach((cell, k) => {
      if (k && names[k]) cell.dataset.name = names[k];
    }));
  });
  // What scrolls sideways in its own box must be reachable by Tab, so that the arrow keys move it.
  const boxes = "article :is(table, pre, .cell_output, .output, .view, div.math, mjx-container)";
  const reach = () => document.querySelectorAll(boxes).forEach(box => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else if (box.tabIndex === 0) box.removeAttribute("tabindex");
  });
  reach();
  addEventListener("resize", reach);
  window.MathJax?.startup?.promise?.then(reach);
  // A link to an entry of the reference opens it, and a link into a fold opens that.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const entry = target?.matches("dt") && target.parentElement.querySelector(":scope > dd > details.entry");
    if (entry) entry.open = true;
    for (let fold = target?.closest("details.entry"); fold; fold = fold.parentElement.closest("details.entry")) fold.open = true;
    if (target?.closest("dl.py")) target.scrollIntoView();
  };
  reveal();
  addEventListener("hashchange", reveal);
});
