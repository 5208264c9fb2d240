// The page: the server's state, the chosen model and picture, and what one pass says of it.

import { Problem, ask, get, latest } from "./api.js";
import { attackPanel, spoofPanel } from "./attacking.js";
import { KINDS as PROMISES, milliseconds, onePassClaims, percent, radiusText, servedKind } from "./claims.js";
import { at, el, problem, show } from "./dom.js";
import { pictureCard } from "./picture.js";
import { canvasOf, figure } from "./pixels.js";
import { provePanel } from "./proving.js";
import { bar, noisePanel, sizePanel } from "./trying.js";

const BARS = 10;
const KINDS = {
  statistical: "Statistical: radii from one pass, right at a promised rate; proofs by votes on request.",
  deterministic: "1-Lipschitz: each radius is proven in one pass, whoever made the picture.",
};

const listeners = { model: [], picture: [], answer: [] };
const state = {
  models: [],
  model: null,
  image: null,
  title: "",
  answer: null,
  proof: null, // the most that votes have proved of this picture, where any did
  learn, // takes such a proof, and says whether it is about what is shown
  seed: 1,
  say: (text) => show(at("said"), text), // to a screen reader
  onModel: (tell) => listeners.model.push(tell),
  onPicture: (tell) => listeners.picture.push(tell),
  onAnswer: (tell) => listeners.answer.push(tell),
};
const tell = (what) => listeners[what].forEach((one) => one());
const predicting = latest();

function learn(found, { model, image }) {
  if (state.model !== model || state.image !== image) return false; // the reader has gone on to something else
  if (found.proven_radius > (state.proof?.proven_radius ?? 0)) state.proof = found;
  return true;
}

function choosePicture(image, title) {
  Object.assign(state, { image, title, answer: null, proof: null, seed: Math.floor(Math.random() * 2 ** 31) });
  tell("picture");
  predict();
}

/** The answer's card: while it is busy, what it held about another picture or model is gone. */
function showCard(isBusy, ...nodes) {
  at("answer").setAttribute("aria-busy", String(isBusy));
  show(at("answer"), nodes);
}

function predict() {
  const { model, image } = state;
  showCard(true, el("p", { class: "hint" }, "One pass is asked …"));
  predicting.run(async (signal) => {
    state.answer = await ask("/api/predict", { model: model.name, image }, signal);
    showAnswer();
    const { certified_radius, class_name, probability } = state.answer;
    const [promised] = PROMISES[servedKind(state.answer)];
    state.say(`It says ${class_name ?? "no class"}, probability ${percent(probability)}, certified radius ${radiusText(certified_radius)}: ${promised}.`);
    tell("answer");
  }, (text) => showCard(false, problem(text)));
}

function showAnswer() {
  const { answer, image, model, title } = state;
  const shares = answer.probabilities.map((share, label) => [share, model.class_names[label]]);
  const ranked = shares.sort(([a], [b]) => b - a);
  const named = answer.class_name ?? (answer.label < 0 ? "no class" : `class ${answer.label}`);
  showCard(false,
    el("div", { class: "seen" },
      figure(canvasOf(image, `The picture as the model sees it: ${title}`), title, `${image.shape[2]}×${image.shape[1]} pixels, as the model sees them`)),
    el("div", { class: "says" },
      el("p", { class: "class" }, "It says: ", el("strong", { id: "class" }, named)),
      el("p", { class: "hint" }, "The class is the name that got the largest probability."),
      el("ol", { class: "bars" }, ranked.slice(0, BARS).map(([share, name]) => bar(name, share, percent(share)))),
      el("p", { class: "hint" }, `${ranked.length > BARS ? `The first ${BARS} of ${ranked.length} classes. ` : ""}A probability is the model's own certainty, adding up to 100 %; it is not a promise.`)),
    el("div", { class: "claims" }, onePassClaims(answer, image.shape, { isOpen: true })),
    el("p", { class: "latency" }, `Reason: ${answer.explanation}. Answered in ${milliseconds(answer.seconds)}.`));
}

function chooseModel(name) {
  state.model = state.models.find((model) => model.name === name);
  at("model").value = name;
  at("model-says").textContent = KINDS[state.model.kind] ?? "Of a kind that this page does not know: read its promise.";
  const fits = state.image && state.model.shape.every((size, i) => size === -1 || size === state.image.shape[i]);
  if (!fits) state.image = null;
  Object.assign(state, { answer: null, proof: null });
  predicting.stop();
  picture.stop();
  tell("model");
  tell("picture");
  if (fits) predict();
  else showCard(false, el("p", { class: "hint" }, "Choose a picture first."));
  picture.showExamples(() => state.image !== null);
}

async function readModels() {
  const { models } = await get("/api/models");
  if (await isAsBefore(models)) return;
  state.models = models;
  show(at("model"), models.map(({ name }) => el("option", { value: name }, name)));
  const former = models.some(({ name }) => name === state.model?.name) ? state.model.name
    : (models.find(({ missing }) => !missing.examples) ?? models[0])?.name;
  if (former) chooseModel(former);
}

/** Whether a server that is back answers the picture as before, so that what was found may stay; or it is another one. */
async function isAsBefore(models) {
  const { model, image, answer } = state;
  if (!answer || JSON.stringify(models) !== JSON.stringify(state.models)) return false;
  const said = ({ seconds, ...rest }) => JSON.stringify(rest);
  const again = await ask("/api/predict", { model: model.name, image }).catch(() => null);
  if (state.answer === answer && !(again && said(again) === said(answer))) return false;
  document.querySelectorAll(".result .problem").forEach((one) => one.remove());
  return true;
}

function showServer(text, isThere) {
  const place = at("server");
  place.className = isThere ? "there" : "gone";
  place.textContent = isThere ? text : `${text} This page looks again by itself.`;
}

let life = null; // of the server, whose models are shown
let watch = null;

// A browser keeps six connections to a place in all its windows, so that one that nobody sees has none.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) watchServer();
  else {
    watch?.close();
    life = null; // a playground that is started meanwhile counts its server's lives anew
  }
});

function watchServer() {
  watch?.close();
  const mine = new EventSource("/api/server");
  watch = mine;
  mine.addEventListener("server", async (event) => {
    const server = JSON.parse(event.data);
    showServer(server.says, server.is_there);
    if (!server.is_there || server.life === life) return;
    life = server.life;
    try {
      await readModels();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      life = null;
      showServer(error.message, false);
    }
  });
  mine.addEventListener("error", () => {
    life = null;
    showServer("The playground itself does not answer: start it again with `heatserve playground`.", false);
    if (mine.readyState === EventSource.CLOSED) setTimeout(() => watch === mine && watchServer(), 2000);
  });
}

const picture = pictureCard({ chosen: choosePicture, model: () => state.model });
sizePanel(state);
noisePanel(state);
attackPanel(state);
spoofPanel(state);
provePanel(state);
at("model").addEventListener("change", () => chooseModel(at("model").value));
watchServer();
