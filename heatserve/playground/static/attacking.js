// Attacks on the class, and spoofed radii.

import { events, latest } from "./api.js";
import { claim, confirmedClaim, lengthText, milliseconds, onePassClaims, percent, servedKind, votedClaim } from "./claims.js";
import { at, button, el, isAnswered, problem, show, slider } from "./dom.js";
import { canvasOf, changedFigures, figure, repaint } from "./pixels.js";

/** A button that starts, and one that stops; `run(signal)` is what goes on between, `stopped` is called at its early end. */
function startStop(text, run, failed, stopped = () => {}) {
  const work = latest();
  const start = button(text, begin, { class: "primary" });
  const stop = button("Stop", () => {
    isStopped = true;
    work.stop();
  }, { disabled: true });
  let isStopped = false;
  async function begin() {
    isStopped = false;
    start.disabled = true;
    stop.disabled = false;
    try {
      await work.run(run, failed);
      if (isStopped) stopped();
    } finally {
      start.disabled = Boolean(start.dataset.missing);
      stop.disabled = true;
    }
  }
  return { start, stop, halt: () => work.stop() };
}

function offer(buttons, missing, hint) {
  buttons.start.dataset.missing = missing ? "1" : "";
  buttons.start.disabled = Boolean(missing);
  show(hint, missing ?? "");
  hint.hidden = !missing;
}

/** What is proven of the class of the picture, where it is known. */
function proven({ answer, proof }) {
  if (answer?.kind === "deterministic") return answer.certified_radius;
  return proof && proof.label === answer?.label ? proof.proven_radius : null;
}

/** Section 5. */
export function attackPanel(state) {
  const result = at("attack-result");
  const hint = el("p", { class: "hint missing" });
  const reach = slider({
    id: "epsilon", label: "Largest change ε (L2)", min: 0.01, max: 3, step: 0.01, value: 0.5, say: lengthText,
  });
  const progress = el("p");
  const buttons = startStop("Attack", run, (text) => show(result, problem(text)), () => progress.append(" Stopped."));
  const quick = el("div", { class: "row" },
    button("Just inside the radius", () => reach.set(within(0.98)), { class: "quiet" }),
    button("Far outside", () => reach.set(Math.max(1, within(3))), { class: "quiet" }));
  show(at("attack-controls"), reach.node, quick, el("div", { class: "row" }, buttons.start, buttons.stop), hint);

  const within = (factor) => Math.max(0.01, Math.floor(100 * factor * (proven(state) ?? state.answer?.certified_radius ?? 0)) / 100);

  async function run(signal) {
    if (!isAnswered(state, result)) return;
    const { model, image, answer } = state;
    progress.textContent = "The server proves what it can first …";
    const canvas = canvasOf(image, "the picture under attack");
    const live = el("div", { class: "figures" }, figure(canvas, "under attack"));
    show(result, progress, live);
    let claimed = null;
    const asked = { model: model.name, image, epsilon: reach.value() };
    for await (const [name, found] of events("/api/attack", asked, signal)) {
      if (name === "begin") {
        if (found.proof) state.learn(found.proof, { model, image });
        claimed = provenClaim(found);
        result.prepend(claimed);
      } else if (name === "step") {
        if (found.image) repaint(canvas, found.image);
        progress.textContent = `Step ${found.number} of ${found.of}: taken for “${found.class_name}”, distance ${lengthText(found.distance)}, ${found.margin > 0 ? "the class still leads" : "another class leads"} by ${Math.abs(found.margin).toFixed(2)}.`;
      } else end(found, claimed, { image, answer });
    }
  }

  function end(found, claimed, { image, answer }) {
    const isProof = answer.kind === "deterministic";
    const radius = isProof ? "the proven radius" : "the radius that votes prove of the smoothed classifier";
    const place = found.proven_radius > 0 ? `${found.is_inside ? "inside" : "outside"} ${radius}`
      : found.is_of_another ? "where votes prove another class" : "where nothing is proven";
    const happened = isProof ? ["The class held", "The class broke"] : ["One pass kept its class", "One pass changed its class"];
    const title = `${happened[found.is_held ? 0 : 1]}, ${place}`;
    const kept = found.is_inside && !isProof ? "undecided" : "no"; // one pass may change where the smoothed class cannot
    state.say(`${title}. ${found.sentence}`);
    show(result,
      el("div", { class: `verdict ${found.is_held ? "yes" : kept}` },
        el("p", { class: "verdict-title" }, title),
        el("p", {}, found.sentence)),
      el("div", { class: "figures" },
        figure(canvasOf(image, "your picture"), "your picture", `“${answer.class_name}” (${percent(answer.probability)})`),
        changedFigures(image, found.image, "after the attack",
          [`“${found.answer.class_name}” (${percent(found.answer.probability)})`, `distance ${lengthText(found.distance)}`])),
      claimed,
      el("p", { class: "latency" }, `One pass at the end: ${milliseconds(found.answer.seconds)}${found.smoothed ? `; votes there: ${milliseconds(found.smoothed.seconds)}` : ""}.`));
  }

  function provenClaim({ answer, proof }) {
    const isProof = answer.kind === "deterministic";
    if (!isProof && proof) return votedClaim(proof, "What is proven of your picture");
    return claim({
      title: "What is claimed of your picture", tier: "one pass", radius: answer.certified_radius,
      kind: servedKind(answer), promise: answer.promise,
      says: isProof ? "Within this distance no attack succeeds." : "Against an attack nothing is promised.",
    });
  }

  state.onModel(() => offer(buttons, state.model.missing.attack, hint));
  state.onAnswer(() => reach.set(within(0.98)));
  state.onPicture(() => {
    buttons.halt();
    show(result);
  });
}

/** Section 6. */
export function spoofPanel(state) {
  const result = at("spoof-result");
  const hint = el("p", { class: "hint missing" });
  const reach = slider({
    id: "reach", label: "How far to search (L2)", min: 0.1, max: 3, step: 0.05, value: 1, say: lengthText,
  });
  const progress = el("p");
  const buttons = startStop("Spoof", run, (text) => show(result, problem(text)), () => progress.append(" Stopped."));
  show(at("spoof-controls"), reach.node, el("div", { class: "row" }, buttons.start, buttons.stop), hint);

  async function run(signal) {
    if (!isAnswered(state, result)) return;
    const { model, image, answer } = state;
    progress.textContent = "Searching …";
    const bar = el("progress", { "aria-label": "Search", max: 1, value: 0 });
    show(result, progress, bar);
    for await (const [name, found] of events("/api/spoof", { model: model.name, image, epsilon: reach.value() }, signal)) {
      if (name === "step") {
        bar.max = found.of;
        bar.value = found.number;
        progress.textContent = `Searching within ${lengthText(found.epsilon)}: step ${found.number} of ${found.of}.`;
      } else end(found, { image, answer });
    }
  }

  function end(found, { image, answer }) {
    const [certified] = onePassClaims(found.answer, image.shape);
    state.say(found.sentence);
    show(result,
      el("div", { class: `verdict ${found.is_spoofed ? "no" : "undecided"}` },
        el("p", { class: "verdict-title" }, found.is_spoofed ? "A spoofed radius, and a refusal" : "Nothing was spoofed this time"),
        el("p", {}, found.sentence)),
      el("div", { class: "figures" },
        figure(canvasOf(image, "your picture"), "your picture", `“${answer.class_name}”`),
        changedFigures(image, found.image, "made to deceive", [`“${found.answer.class_name}” (${percent(found.answer.probability)})`, `distance ${lengthText(found.distance)}`])),
      certified,
      found.confirmed ? confirmedClaim(found.confirmed) : null,
      found.smoothed ? votedClaim(found.smoothed, "What votes prove there") : null,
      el("p", { class: "latency" }, `One pass: ${milliseconds(found.answer.seconds)}${found.confirmed ? `; confirm: ${milliseconds(found.confirmed.seconds)}` : ""}.`));
  }

  state.onModel(() => offer(buttons, state.model.missing.spoof, hint));
  state.onPicture(() => {
    buttons.halt();
    show(result);
  });
}

export { startStop, offer };
