// The page for readers. What a reader decides is put into an outbox in this browser first and leaves it only when the
// server has said that it is on the disk.

const RETRY_MS = 4000;
const SAY_MS = 2500;
const ANSWER_MS = 15000;
const IDLE_MS = 120000; // without a key or a pointer this long, time no longer counts as looking

const REASONS = {
  wrong_answer: ["Wrong answer", "the image or the caption says otherwise"],
  not_visible: ["Not visible", "this image alone does not show it"],
  needs_history: ["Needs history", "only the patient's story or other tests tell it"],
  leaks_answer: ["Leaks the answer", "the question gives the answer away"],
  badly_worded: ["Badly worded", "unclear, or no radiologist would ask so"],
  not_a_question: ["Not a question", "a fragment, an instruction, other text"],
  wrong_image: ["Wrong image", "the pair is about another image or slice"],
  other: ["Other", "say what in the note"],
};
const VERDICTS = { accept: "Accepted", edit: "Edited", reject: "Rejected", withdraw: "Taken back" };

const $ = (id) => document.getElementById(id);

const state = {
  queue: "", reader: "", fixed: false, items: [], reasons: [], place: 0, mode: "read",
  hideCaption: false, revealed: false, made: [], looked: 0, lookingSince: 0, lastActive: 0,
};

// ---------------------------------------------------------------- outbox

const outbox = {
  waiting: [],
  sending: false,
  timer: 0,
  name: "",
  kept: true,

  open(name) {
    this.name = name;
    try {
      this.waiting = JSON.parse(localStorage.getItem(name) ?? "[]");
    } catch {
      this.waiting = [];
      this.kept = false;
    }
  },

  store() {
    try {
      if (this.waiting.length) localStorage.setItem(this.name, JSON.stringify(this.waiting));
      else localStorage.removeItem(this.name);
      this.kept = true;
    } catch {
      this.kept = false;
    }
  },

  put(decision) {
    this.waiting.push(decision);
    this.store();
    return this.flush();
  },

  async flush() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    try {
      while (this.waiting.length) {
        const answer = await send("/api/decisions", this.waiting[0]);
        if (answer.status === 201) {
          this.shift();
          continue;
        }
        if (answer.status === 404 || answer.status === 413 || answer.status === 422) {
          refused(this.shift(), answer.error);
          continue;
        }
        this.fail(answer.error);
        return;
      }
      if (!banner.sticky) banner.hide();
    } finally {
      this.sending = false;
      showProgress();
    }
  },

  shift() {
    const first = this.waiting.shift();
    this.store();
    return first;
  },

  fail(error) {
    const many = this.waiting.length;
    const where = this.kept ? "kept in this browser" : "kept in this page only, so leave it open";
    banner.show(`${many} ${many === 1 ? "decision is" : "decisions are"} not saved yet: ${error} ` +
      `${many === 1 ? "It is" : "They are"} ${where} and sent again every few seconds. You can go on.`);
    this.timer = setTimeout(() => this.flush(), RETRY_MS);
  },
};

// The server's status and its error, or status 0 if it does not answer.
async function send(address, body) {
  const options = { signal: AbortSignal.timeout(ANSWER_MS) };
  if (body) Object.assign(options, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    return { status: 0, error: "the server does not answer; it may have been stopped." };
  }
  let value = null;
  try {
    value = await response.json();
  } catch {
    // Not from the review: a proxy, or a server that died half way.
    return { status: response.ok ? 0 : response.status, error: `the server answered with something else (${response.status}).` };
  }
  return { status: response.status, value, error: response.ok ? "" : (value?.error ?? `status ${response.status}`) };
}

function refused(decision, error) {
  const item = state.items.find((one) => one.key === decision.key);
  if (item) item.decision = null;
  const texts = [decision.question, decision.answer, decision.note].filter(Boolean).join(" / ");
  banner.show(`The server refused a decision: ${error}. Please judge that pair again.` +
    (texts ? ` You had written: ${texts}` : ""), { sticky: true });
  show();
}

// ---------------------------------------------------------------- telling

const banner = {
  sticky: false,
  show(text, { sticky = false } = {}) {
    this.sticky = sticky;
    $("banner-text").textContent = text;
    $("banner-retry").hidden = sticky;
    $("banner-close").hidden = !sticky;
    $("banner").hidden = false;
  },
  hide() {
    this.sticky = false;
    $("banner").hidden = true;
  },
};

let sayTimer = 0;
function say(text) {
  $("said").textContent = text;
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => { $("said").textContent = ""; }, SAY_MS);
}

// ---------------------------------------------------------------- showing

const current = () => state.items[state.place];
const judged = () => state.items.filter((item) => item.decision).length;

function showProgress() {
  const all = state.items.length;
  $("progress").max = all || 1;
  $("progress").value = judged();
  const waiting = outbox.waiting.length;
  $("progress-text").textContent = `${judged()} of ${all} judged` + (waiting ? `, ${waiting} not saved` : "");
}

function show() {
  const item = current();
  if (!item) return;
  setMode("read");
  $("place").textContent = `Pair ${state.place + 1} of ${state.items.length}`;
  $("slot").textContent = item.slot === "yes" || item.slot === "no" ? "yes/no" : item.slot;
  $("slot").title = "What is asked for";
  $("question").textContent = item.question;
  $("answer").textContent = item.answer;
  $("caption").textContent = item.caption;
  $("earlier").hidden = !item.earlier.length;
  $("earlier-list").replaceChildren(...item.earlier.map((turn) => {
    const line = document.createElement("li");
    const answer = document.createElement("b");
    answer.textContent = turn.answer;
    line.append(turn.question, " ", answer);
    return line;
  }));
  showDecision(item);
  showCaption();
  showImage(item);
  showProgress();
  $("back").disabled = state.place === 0;
  $("forward").disabled = state.place === state.items.length - 1;
  document.querySelector(".reading").scrollTop = 0;
}

function showDecision(item) {
  const made = item.decision;
  $("state").hidden = !made;
  $("verdict").hidden = !made || made.verdict === "accept";
  if (!made) return;
  $("state").textContent = VERDICTS[made.verdict];
  $("state").className = `chip state ${made.verdict}`;
  const lines = made.verdict === "edit"
    ? [`Your question: ${made.question}`, `Your answer: ${made.answer}`]
    : [`Your reasons: ${made.reasons.map((name) => REASONS[name][0].toLowerCase()).join(", ")}`];
  if (made.note) lines.push(`Your note: ${made.note}`);
  $("verdict").textContent = lines.join("\n");
}

function showCaption() {
  const hidden = state.hideCaption && !current().decision && !state.revealed;
  $("caption").hidden = hidden;
  $("caption-hidden").hidden = !hidden;
  $("caption-button").setAttribute("aria-expanded", String(!hidden));
  $("caption-action").textContent = state.hideCaption ? (hidden ? "Show" : "Always show") : "Hide until judged";
}

function showImage(item) {
  const image = $("image");
  if (image.dataset.key === item.key) return;
  image.dataset.key = item.key;
  image.alt = `Image of pair ${state.place + 1}`;
  image.hidden = false;
  $("image-note").hidden = true;
  zoom(false);
  image.src = `/image/${item.key}`;
}

async function imageFailed() {
  const { key } = $("image").dataset;
  const answer = await send(`/image/${key}`);
  if ($("image").dataset.key !== key) return;
  $("image").hidden = true;
  $("image").removeAttribute("data-key");
  $("image-note").hidden = false;
  $("image-note").textContent = `The image cannot be shown: ${answer.error} Leave the pair undecided, or reject it as “other” with a note.`;
}

// The server converts a picture once; asking for the next one early hides the time it takes.
function warmNext() {
  const next = state.items[state.place + 1];
  if (next) new Image().src = `/image/${next.key}`;
}

function zoom(on) {
  const stage = $("stage");
  stage.classList.toggle("zoomed", on);
  $("zoom").setAttribute("aria-pressed", String(on));
  if (on) stage.scrollTo((stage.scrollWidth - stage.clientWidth) / 2, (stage.scrollHeight - stage.clientHeight) / 2);
}

function setMode(mode) {
  state.mode = mode;
  $("edit").hidden = mode !== "edit";
  $("pair").hidden = mode === "edit";
  $("reject").hidden = mode !== "reject";
  $("panel").dataset.mode = mode; // leaving a form by moving on would lose what was written
}

// ---------------------------------------------------------------- moving

function go(place) {
  if (place < 0 || place >= state.items.length || place === state.place) return;
  stopLooking();
  state.place = place;
  state.revealed = false;
  startLooking();
  show();
}

function nextOpen() {
  for (let step = 1; step <= state.items.length; step += 1) {
    const place = (state.place + step) % state.items.length;
    if (!state.items[place].decision) {
      go(place);
      return;
    }
  }
  say("All pairs are judged. Thank you.");
  show();
}

// ---------------------------------------------------------------- time

function startLooking() {
  state.looked = 0;
  state.lookingSince = document.hidden ? 0 : Date.now();
  state.lastActive = Date.now();
}

function pauseLooking() {
  if (!state.lookingSince) return;
  const end = Math.min(Date.now(), state.lastActive + IDLE_MS);
  state.looked += Math.max(0, end - state.lookingSince);
  state.lookingSince = 0;
}

function stopLooking() {
  pauseLooking();
  const item = current();
  if (item) item.seconds = (item.seconds ?? 0) + state.looked / 1000;
  state.looked = 0;
}

function active() {
  const now = Date.now();
  if (state.lookingSince && now - state.lastActive > IDLE_MS) {
    pauseLooking();
    state.lookingSince = now;
  }
  state.lastActive = now;
}

// ---------------------------------------------------------------- deciding

function decide(verdict, { reasons = [], note = "", question = "", answer = "" } = {}) {
  const item = current();
  stopLooking();
  const seconds = Math.min(Math.round(item.seconds * 10) / 10, 86400);
  item.decision = { verdict, reasons, note, question, answer };
  state.made.push(item.key);
  outbox.put({ reader: state.reader, key: item.key, verdict, reasons, note, question, answer, seconds });
  say(`${VERDICTS[verdict]} · u undoes`);
  startLooking();
  setMode("read");
  nextOpen();
}

function undo() {
  let key = state.made.pop();
  while (key && !state.items.find((item) => item.key === key)?.decision) key = state.made.pop();
  if (!key && current().decision) key = current().key;
  if (!key) {
    say("There is nothing to undo here.");
    return;
  }
  const place = state.items.findIndex((item) => item.key === key);
  state.items[place].decision = null;
  outbox.put({ reader: state.reader, key, verdict: "withdraw", reasons: [], note: "", question: "", answer: "", seconds: 0 });
  if (place === state.place) show();
  else go(place);
  say("Taken back");
}

function startEdit() {
  const item = current();
  setMode("edit");
  const made = item.decision?.verdict === "edit" ? item.decision : item;
  $("edit-question").value = made.question;
  $("edit-answer").value = made.answer;
  $("edit-error").textContent = "";
  $("edit-answer").focus();
  $("edit-answer").select();
}

function saveEdit() {
  const item = current();
  const question = $("edit-question").value.trim();
  const answer = $("edit-answer").value.trim();
  if (!question || !answer) {
    $("edit-error").textContent = "Neither may be empty. To drop the pair, reject it.";
  } else if (question === item.question && answer === item.answer) {
    $("edit-error").textContent = "Nothing was changed. To keep the pair as it is, accept it.";
  } else {
    leaveField();
    decide("edit", { question, answer });
  }
}

function startReject() {
  setMode("reject");
  const made = current().decision?.verdict === "reject" ? current().decision : { reasons: [], note: "" };
  for (const box of $("reasons").querySelectorAll("input")) box.checked = made.reasons.includes(box.value);
  $("note").value = made.note;
  $("reject-error").textContent = "";
  $("reasons").querySelector("input").focus();
  $("reject").scrollIntoView({ block: "nearest" });
}

function saveReject() {
  const reasons = [...$("reasons").querySelectorAll("input:checked")].map((box) => box.value);
  const note = $("note").value.trim();
  if (!reasons.length) {
    $("reject-error").textContent = "Choose at least one reason.";
  } else if (reasons.includes("other") && !note) {
    $("reject-error").textContent = "Say in the note what is wrong.";
    $("note").focus();
  } else {
    leaveField();
    decide("reject", { reasons, note });
  }
}

function leaveField() {
  if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
}

function leave() {
  leaveField();
  setMode("read");
}

function toggleCaption() {
  const hidden = $("caption").hidden;
  if (hidden) state.revealed = true;
  else {
    state.hideCaption = !state.hideCaption;
    state.revealed = false;
  }
  showCaption();
}

// ---------------------------------------------------------------- keys

const KEYS = {
  a: () => decide("accept"), e: startEdit, r: startReject, u: undo, n: nextOpen,
  j: () => go(state.place + 1), ArrowRight: () => go(state.place + 1),
  k: () => go(state.place - 1), ArrowLeft: () => go(state.place - 1),
  z: () => zoom(!$("stage").classList.contains("zoomed")), c: toggleCaption, "?": () => $("help").showModal(),
};
KEYS.ArrowDown = KEYS.ArrowRight;
KEYS.ArrowUp = KEYS.ArrowLeft;

function onKey(event) {
  active();
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || $("work").hidden || $("help").open) return;
  const { key, target } = event;
  const writing = target instanceof HTMLElement && target.matches("textarea, input:not([type=checkbox])");
  if (key === "Escape" && state.mode !== "read") leave();
  else if (key === "Enter" && writing && !event.shiftKey) (state.mode === "edit" ? saveEdit : saveReject)();
  else if (state.mode === "reject" && !writing && key === "Enter" && !(target instanceof HTMLButtonElement)) saveReject();
  else if (state.mode === "reject" && !writing && /^[1-9]$/.test(key)) {
    const box = $("reasons").querySelectorAll("input")[Number(key) - 1];
    if (!box) return;
    box.checked = !box.checked;
    $("reject-error").textContent = "";
  } else if (state.mode === "read" && !writing && !event.repeat && Object.hasOwn(KEYS, key.length === 1 ? key.toLowerCase() : key)) {
    // Arrows move within a zoomed image that has the focus.
    if (key.startsWith("Arrow") && target === $("stage") && $("stage").classList.contains("zoomed")) return;
    KEYS[key.length === 1 ? key.toLowerCase() : key]();
  } else return;
  event.preventDefault();
}

function dragImage() {
  const stage = $("stage");
  const image = $("image");
  let from = null;
  image.addEventListener("pointerdown", (event) => {
    if (!stage.classList.contains("zoomed") || event.pointerType === "touch") return;
    from = { x: event.clientX + stage.scrollLeft, y: event.clientY + stage.scrollTop };
    image.setPointerCapture(event.pointerId);
    image.classList.add("dragged");
  });
  image.addEventListener("pointermove", (event) => {
    if (from) stage.scrollTo(from.x - event.clientX, from.y - event.clientY);
  });
  const end = () => {
    from = null;
    image.classList.remove("dragged");
  };
  image.addEventListener("pointerup", end);
  image.addEventListener("pointercancel", end);
  image.addEventListener("click", () => { if (!stage.classList.contains("zoomed")) zoom(true); });
}

// ---------------------------------------------------------------- start

function reasonBoxes() {
  $("reasons").replaceChildren(...state.reasons.map((name, place) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    const number = document.createElement("kbd");
    box.type = "checkbox";
    box.value = name;
    number.textContent = String(place + 1);
    label.title = REASONS[name][1];
    label.append(box, number, REASONS[name][0]);
    return label;
  }));
  $("rubric").replaceChildren(...state.reasons.map((name) => {
    const line = document.createElement("li");
    const title = document.createElement("b");
    title.textContent = REASONS[name][0];
    line.append(title, `: ${REASONS[name][1]}`);
    return line;
  }));
}

async function begin(name) {
  const answer = await send(`/api/review?reader=${encodeURIComponent(name)}`);
  if (answer.status !== 200) return answer.error;
  const { reader, items, reasons } = answer.value;
  Object.assign(state, { reader, items, reasons });
  outbox.open(`radvqa-review:${state.queue}:${reader}`);
  for (const { key, ...decision } of outbox.waiting) {
    const item = items.find((one) => one.key === key);
    if (item) item.decision = decision.verdict === "withdraw" ? null : decision;
  }
  const first = items.findIndex((item) => !item.decision);
  state.place = first < 0 ? 0 : first;
  $("start").hidden = true;
  $("work").hidden = false;
  $("progress-area").hidden = false;
  $("help-button").hidden = false;
  $("who").textContent = `Reader ${reader}`;
  reasonBoxes();
  startLooking();
  show();
  if (!items.length) banner.show("The queue is empty.", { sticky: true });
  else if (first < 0) say("All pairs are judged. Thank you.");
  outbox.flush();
  return "";
}

function listen() {
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerdown", active);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) pauseLooking();
    else {
      state.lookingSince = Date.now();
      state.lastActive = Date.now();
    }
  });
  window.addEventListener("beforeunload", (event) => {
    if (outbox.waiting.length) event.preventDefault();
  });
  const click = (id, act) => $(id).addEventListener("click", act);
  click("accept-button", KEYS.a);
  click("edit-button", startEdit);
  click("reject-button", startReject);
  click("edit-leave", leave);
  click("reject-leave", leave);
  click("back", KEYS.k);
  click("forward", KEYS.j);
  click("next", nextOpen);
  click("undo", undo);
  click("zoom", KEYS.z);
  click("caption-button", toggleCaption);
  click("help-button", KEYS["?"]);
  click("banner-retry", () => outbox.flush());
  click("banner-close", () => banner.hide());
  $("edit").addEventListener("submit", (event) => { event.preventDefault(); saveEdit(); });
  $("reject").addEventListener("submit", (event) => { event.preventDefault(); saveReject(); });
  $("image").addEventListener("error", imageFailed);
  $("image").addEventListener("load", warmNext);
  $("start-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("start-error").textContent = await begin($("reader").value);
  });
  dragImage();
}

async function main() {
  // The token has become a cookie; it need not stay in the address.
  if (location.search) history.replaceState(null, "", "/");
  listen();
  const answer = await send("/api/session");
  if (answer.status !== 200) {
    banner.show(`The review cannot be opened: ${answer.error} Load the page again once that is mended.`, { sticky: true });
    return;
  }
  state.queue = answer.value.queue;
  if (answer.value.reader) {
    const error = await begin(answer.value.reader);
    if (error) banner.show(`The review cannot be opened: ${error}`, { sticky: true });
    return;
  }
  $("start").hidden = false;
  $("reader").focus();
}

main();
