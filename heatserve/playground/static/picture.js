// Where the picture comes from: examples, a file, or a drawing.

import { Problem, get, latest, upload } from "./api.js";
import { at, el, show } from "./dom.js";
import { drawingPad } from "./draw.js";
import { canvasOf } from "./pixels.js";

const MOST_BYTES = 16 * 2 ** 20;
const TABS = ["examples", "upload", "draw"];

/** Wire the picture's card. `chosen(image, title)` is called with each new picture, `model()` is the chosen model. */
export function pictureCard({ chosen, model }) {
  const reading = latest();
  let isReading = false;

  function tellReading(title) {
    isReading = title !== null;
    at("picture-reading").textContent = isReading ? `${title.charAt(0).toUpperCase()}${title.slice(1)} is read …` : "";
  }

  function stop() {
    reading.stop();
    tellReading(null);
    failed(""); // it was about what is left now
  }

  function failed(text) {
    at("picture-problem").textContent = text;
    at("picture-problem").hidden = !text;
  }

  function take(content, title, drawn) {
    failed(model() ? "" : "There is no model to show it to: the server does not answer.");
    if (!model()) return;
    if (content.size > MOST_BYTES) {
      failed(`This file is too large: expected at most ${MOST_BYTES / 2 ** 20} MiB.`);
      return;
    }
    const path = `/api/picture?model=${encodeURIComponent(model().name)}${drawn ? "&drawn=1" : ""}`;
    tellReading(title);
    reading.run(async (signal) => {
      const { image } = await upload(path, content, signal);
      tellReading(null);
      mark(null);
      chosen(image, title);
    }, (text) => {
      tellReading(null);
      failed(at("answer").querySelector("figure") ? `${text} The picture before it is still shown.` : text);
    });
  }

  function mark(pressed) {
    for (const one of at("examples").children) one.setAttribute("aria-pressed", String(one === pressed));
  }

  tabs();
  drawingPad((content) => take(content, "your drawing", true));
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    if (file) take(file, "your picture", false);
    at("file").value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    const [file] = event.dataTransfer.files;
    if (file) take(file, "your picture", false);
    else failed("What was dropped is not a file: save the picture, and drop the file.");
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) take(file, "your picture", false);
  });

  /** Show the examples for the chosen model; the first becomes the picture where there is none that fits. */
  async function showExamples(hasPicture) {
    const { name, missing } = model();
    show(at("examples"));
    at("examples-say").textContent = missing.examples ?? "Pictures are read …";
    if (missing.examples) return;
    let found;
    try {
      found = await get(`/api/examples?model=${encodeURIComponent(name)}`);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      at("examples-say").textContent = error.message;
      return;
    }
    if (model().name !== name) return;
    const buttons = found.map(({ class_name, image }) => {
      const title = `test picture: ${class_name}`;
      const one = el("button", { type: "button", "aria-pressed": "false", "aria-label": title, title: class_name },
        canvasOf(image, ""));
      one.firstChild.setAttribute("aria-hidden", "true");
      one.addEventListener("click", () => {
        stop(); // a file that is still read does not take the place of what is chosen after it
        mark(one);
        chosen(image, title);
      });
      return one;
    });
    at("examples-say").textContent = "Pictures that the model was not trained on.";
    show(at("examples"), buttons);
    if (!hasPicture() && !isReading) buttons[0]?.click();
  }

  return { showExamples, stop };
}

function tabs() {
  const all = TABS.map((name) => at(`tab-${name}`));
  function select(chosen) {
    for (const [i, tab] of all.entries()) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      at(`panel-${TABS[i]}`).hidden = tab !== chosen;
    }
  }
  for (const [i, tab] of all.entries()) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = all[(i + step + all.length) % all.length];
      select(next);
      next.focus();
    });
  }
}
