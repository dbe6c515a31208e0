// A new question on the same picture, answered by the live model. It takes seconds: progress is told, nothing blocks.

import { make, fill } from "./dom.js";
import { announce } from "./announce.js";
import { ask, liveWords } from "./cases_api.js";

/** The form. `answered(case)` is called with the new case. */
export function drawAsk(element, { series, key, live, longest, answered }) {
  if (!live) {
    fill(
      element,
      make(
        "p",
        { class: "soft" },
        "No model is running. Start the page with ",
        make("code", { text: "radvqa serve RUN --live" }),
        " to ask new questions.",
      ),
    );
    return;
  }
  const question = make("input", {
    id: "ask-question",
    type: "text",
    maxlength: longest.question,
    required: true,
    autocomplete: "off",
  });
  const answer = make("input", { id: "ask-answer", type: "text", maxlength: longest.answer, autocomplete: "off" });
  const button = make("button", { type: "submit", class: "primary", text: "Ask" });
  const progress = make("progress", { "aria-label": "The model is at work", hidden: true });
  const told = make("p", { class: "told", role: "status" });
  const form = make(
    "form",
    {
      class: "ask",
      on: {
        submit: (event) => {
          event.preventDefault();
          send();
        },
      },
    },
    make("label", { for: "ask-question", text: "Question" }),
    question,
    make("label", { for: "ask-answer", text: "An answer to explain beside the model's own (optional)" }),
    answer,
    make("div", { class: "row" }, button, progress),
    told,
  );
  fill(element, form);

  async function send() {
    if (!question.value.trim()) return;
    const started = performance.now();
    let words = "The model is at work.";
    const timer = setInterval(() => {
      told.textContent = `${words} ${seconds(started)} s`;
      liveWords().then(
        (now) => (words = now),
        () => {}, // the question itself tells what went wrong
      );
    }, 1000);
    button.disabled = true;
    progress.hidden = false;
    told.classList.remove("error");
    told.textContent = "The question was sent.";
    try {
      const made = await ask(series, key, question.value.trim(), answer.value.trim());
      told.textContent = `Answered after ${seconds(started)} s.`;
      await answered(made);
      announce(`Answer: ${(made.views.typed ?? made.views.model).text}`);
    } catch (error) {
      told.classList.add("error");
      told.textContent = error.message;
    } finally {
      clearInterval(timer);
      button.disabled = false;
      progress.hidden = true;
    }
  }
}

const seconds = (started) => Math.max(1, Math.round((performance.now() - started) / 1000));
