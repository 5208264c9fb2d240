// Changes of one size, and noise: what the picture looks like, and what one pass says of it.

import { ask, events, latest } from "./api.js";
import { claim, count, lengthText, milliseconds, percent, radiusText, servedKind, sizeText } from "./claims.js";
import { at, el, problem, show, slider, svg } from "./dom.js";
import { amplified, canvasOf, changedFigures, difference, figure } from "./pixels.js";

const WAIT = 150; // milliseconds after the last move of a slider
const USUAL = 0.25;

/** What a slider's moves do: the result, which is of another value, is dim until there is another one. */
function aged(result, look) {
  let timer;
  return () => {
    result.setAttribute("aria-busy", String(Boolean(result.firstChild)));
    clearTimeout(timer);
    timer = setTimeout(look, WAIT);
  };
}

/** Show the result of the slider's value. */
function showNew(result, ...nodes) {
  result.setAttribute("aria-busy", "false");
  show(result, nodes);
}

const placeText = (distance, { certified_radius }) => {
  if (certified_radius === 0) return null;
  return distance <= certified_radius ? "within the certified radius" : "larger than the certified radius";
};
const classText = (answer) => `answered “${answer.class_name ?? answer.label}” (${percent(answer.probability)})`;

/** Section 3. */
export function sizePanel(state) {
  const asking = latest();
  const result = at("size-result");
  const size = slider({
    id: "size", label: "Size of the change (L2)", min: 0.01, max: 2, step: 0.01, value: USUAL,
    say: lengthText, moved: aged(result, look),
  });
  show(at("size-controls"), size.node);

  let search = el("p");
  const fail = (text) => (search.isConnected ? search.replaceWith(problem(text)) : showNew(result, problem(text)));

  function look() {
    const { model, image, answer } = state;
    if (!image || !answer) return;
    const radius = size.value();
    asking.run(async (signal) => {
      const question = { model: model.name, image, radius, label: answer.label };
      const lines = (one) => [classText(one.answer), `distance ${lengthText(one.distance)}`, placeText(one.distance, answer)];
      const figures = el("div", { class: "figures" }, figure(canvasOf(image, "your picture"), "your picture", classText(answer)));
      search = el("p", { class: "hint" }, model.missing.attack
        ? `The worst change cannot be searched for here. ${model.missing.attack}`
        : "Searching for the worst change …");
      const latency = el("p", { class: "latency" });
      for await (const [name, found] of events("/api/change", question, signal)) {
        const title = { random: "random change", worst: "worst change found" }[name];
        figures.append(changedFigures(image, found.image, title, lines(found)));
        if (name === "worst") search.remove();
        latency.append(`${name === "random" ? "One pass: " : ", "}${milliseconds(found.answer.seconds)} for the ${title}`);
        if (name !== "random") continue;
        showNew(result, el("p", {}, sizeText(found.distance, image.shape)), figures, search,
          claim({
            title: "Certified radius of your picture", tier: "one pass", radius: answer.certified_radius,
            kind: servedKind(answer), promise: answer.promise,
            says: "Each change above says whether it is within this radius; nothing is claimed about larger ones.",
          }), latency);
      }
    }, fail);
  }

  state.onAnswer(() => {
    const { answer } = state;
    size.set(answer.certified_radius > 0 ? Math.max(0.01, Math.floor(100 * answer.certified_radius) / 100) : USUAL);
    look();
  });
  state.onPicture(() => {
    asking.stop();
    showNew(result);
  });
}

/** Section 4. */
export function noisePanel(state) {
  const asking = latest();
  const result = at("noise-result");
  const noise = slider({
    id: "sigma", label: "Strength σ of the noise", min: 0, max: 0.6, step: 0.01, value: 0.1,
    say: (value) => value.toFixed(2), moved: aged(result, look),
    hint: "The standard deviation of what is added to each pixel; what is then darker than black or lighter than white is cut off.",
  });
  show(at("noise-controls"), noise.node);
  noise.input.disabled = true;

  function look() {
    const { model, image, answer, seed } = state;
    if (!image || !answer) return;
    asking.run(async (signal) => {
      const found = await ask("/api/noise", { model: model.name, image, sigma: noise.value(), seed }, signal);
      draw(found, { model, clean: image, served: answer });
    }, (text) => showNew(result, problem(text)));
  }

  function draw({ image, distance, answer, copies }, { model, clean, served }) {
    const radii = copies.map((copy) => copy.radius).sort((a, b) => a - b);
    const votes = new Map();
    for (const { label } of copies) votes.set(label, (votes.get(label) ?? 0) + 1);
    const ranked = [...votes].sort(([, a], [, b]) => b - a);
    const middle = radii[Math.floor(radii.length / 2)];
    const { canvas, factor } = difference(clean, image);
    showNew(result,
      el("div", { class: "figures" },
        figure(canvasOf(image, "one noisy copy"), "one noisy copy", classText(answer), `distance ${lengthText(distance)}`),
        figure(canvas, "its noise alone", amplified(factor), "grey: no change")),
      el("p", {}, `What ${count(copies.length)} noisy copies are taken for:`),
      el("ol", { class: "bars" }, ranked.map(([label, number]) => bar(model.class_names[label] ?? "no class", number / copies.length, `${number} of ${copies.length}`))),
      strip(copies, served),
      claim({
        title: "Certified radius of a noisy copy (median)", tier: "one pass", radius: middle,
        kind: servedKind({ ...answer, certified_radius: middle }), promise: answer.promise,
        says: `From ${radiusText(radii[0])} to ${radiusText(radii[radii.length - 1])}; each is about the noisy copy, not about your picture.`,
      }),
      el("p", { class: "latency" }, `${count(copies.length)} copies answered in ${milliseconds(answer.seconds)}.`));
  }

  state.onAnswer(() => {
    noise.input.disabled = false;
    look();
  });
  state.onPicture(() => {
    asking.stop();
    showNew(result);
  });
}

/** A point for each copy, as far to the right as its radius is large. */
function strip(copies, answer) {
  const most = Math.max(0.1, answer.certified_radius, ...copies.map(({ radius }) => radius));
  const x = (radius) => 12 + (radius / most) * 476;
  const kept = copies.filter(({ label }) => label === answer.label).length;
  return el("figure", { class: "chart strip" },
    svg("svg", { viewBox: "0 0 500 64", role: "img", "aria-label": `The radii of the copies; ${kept} of ${copies.length} keep the class.` },
      svg("line", { class: "grid", x1: x(0), x2: x(most), y1: 34, y2: 34 }),
      svg("line", { class: "served", x1: x(answer.certified_radius), x2: x(answer.certified_radius), y1: 8, y2: 44 }),
      copies.map(({ label, radius }, i) => {
        const [cx, cy] = [x(radius), 16 + (i % 5) * 6];
        return label === answer.label
          ? svg("circle", { class: "kept", cx, cy, r: 4 })
          : svg("path", { class: "lost", d: `M ${cx - 4} ${cy - 4} l 8 8 m 0 -8 l -8 8` });
      }),
      svg("text", { x: x(0), y: 60, "text-anchor": "start" }, "radius 0"),
      svg("text", { x: x(most), y: 60, "text-anchor": "end" }, radiusText(most))),
    el("figcaption", {},
      el("span", {}, "A dot for each copy that keeps the class, a cross for each that does not; to the right, the radius that is served for it."),
      el("span", { class: "key served" }, "your picture without noise")));
}

/** A row of a bar chart that is a list. */
export function bar(name, share, text) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${100 * share}%`;
  return el("li", {}, el("span", { class: "name" }, name), el("span", { class: "track", "aria-hidden": "true" }, fill), el("span", { class: "value" }, text));
}
