"use strict";
(() => {
  const form = document.getElementById("browse");
  if (!form) return;
  const STEP = 40;
  const told = document.getElementById("browse-told");
  const more = document.getElementById("browse-more");
  const none = document.getElementById("browse-none");
  const cases = Array.from(document.querySelectorAll(".case"), (place) => ({
    place,
    rows: Array.from(place.querySelectorAll(".asked"), (row) => ({ row, text: row.textContent.toLowerCase() })),
  }));
  const total = cases.reduce((sum, one) => sum + one.rows.length, 0);
  const filters = ["result", "type", "modality", "state"];
  let room = STEP;

  function show() {
    const wanted = filters.map((name) => [name, form.elements[name] ? form.elements[name].value : ""]);
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let answers = 0;
    let pictures = 0;
    for (const { place, rows } of cases) {
      let found = 0;
      for (const { row, text } of rows) {
        const fits = wanted.every(([name, value]) => !value || row.dataset[name] === value) && words.every((word) => text.includes(word));
        row.hidden = !fits;
        found += fits;
      }
      answers += found;
      pictures += found > 0;
      place.hidden = !found || pictures > room;
    }
    const left = Math.max(0, pictures - room);
    told.textContent = `${answers.toLocaleString("en")} of ${total.toLocaleString("en")} listed answers fit, about ${pictures.toLocaleString("en")} ${pictures === 1 ? "picture" : "pictures"}` + (left ? `; the first ${room.toLocaleString("en")} pictures are shown.` : ".");
    none.hidden = answers > 0;
    more.hidden = !left;
    more.textContent = `Show ${Math.min(STEP, left)} more pictures`;
  }

  function again() {
    room = STEP;
    show();
  }

  form.hidden = false;
  form.addEventListener("input", again);
  form.addEventListener("reset", () => setTimeout(again));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    room += STEP;
    show();
  });
  show();
})();
