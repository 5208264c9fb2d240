// Proofs by votes: confirm, and certify as its bound tightens.

import { ask, events, latest } from "./api.js";
import { capital, confirmedClaim, count, lengthText, milliseconds, radiusText, votedClaim } from "./claims.js";
import { offer, startStop } from "./attacking.js";
import { at, button, el, isAnswered, problem, show, slider, svg } from "./dom.js";

const NUMBERS = [1000, 10000, 100000];
const ENDS = new Set(["proven", "votes", "tightening"]); // reasons that say no more than the votes
const WIDTH = 560;
const HEIGHT = 220;
const EDGE = { left: 56, right: 12, top: 18, bottom: 38 };

/** Section 7. */
export function provePanel(state) {
  const result = at("prove-result");
  const confirmed = el("div", { class: "result" }); // beside one another: neither question takes the other's answer away
  const proof = el("div", { class: "result" });
  const hint = el("p", { class: "hint missing" });
  const confirming = latest();
  const radius = slider({ id: "radius", label: "Confirm within r (L2)", min: 0.01, max: 1, step: 0.005, value: 0.125, say: lengthText });
  const confirm = button("Confirm", ask_confirm, { class: "primary" });
  const number = el("select", { id: "votes" });
  const buttons = startStop("Prove it", certify, fail);
  show(at("prove-controls"),
    radius.node, el("div", { class: "row" }, confirm),
    el("div", { class: "field" }, el("label", { for: "votes" }, "Or find the largest radius, with at most so many votes"), number),
    el("div", { class: "row" }, buttons.start, buttons.stop), hint);

  async function ask_confirm() {
    if (!isAnswered(state, result)) return;
    const { model, image } = state;
    confirm.disabled = true;
    show(result, confirmed, proof);
    show(confirmed, el("p", {}, "The server takes its votes …"));
    await confirming.run(async (signal) => {
      const answer = await ask("/api/confirm", { model: model.name, image, radius: radius.value() }, signal);
      show(confirmed, confirmedClaim(answer));
      state.say(confirmed.textContent);
    }, (text) => show(confirmed, problem(text))).finally(() => {
      confirm.disabled = !state.model.tiers.confirm;
    });
  }

  /** What a proof that fails has proven by then holds; where it is nothing yet, the error is all there is. */
  function fail(text) {
    if (proof.querySelector(".claim")) proof.append(problem(text));
    else show(proof, problem(text));
  }

  async function certify(signal) {
    if (!isAnswered(state, result)) return;
    const { model, image, answer } = state;
    const live = el("p", { class: "live" }, "The server takes its first votes …");
    const claimed = el("div");
    let chart = null;
    let last = null;
    show(result, confirmed, proof);
    show(proof, live);
    let shown = 0;
    try {
      for await (const [name, found] of events("/api/certify", { model: model.name, image, n: Number(number.value) }, signal)) {
        if (name === "begin") {
          chart = new Chart(found.votes, answer);
          show(proof, live, chart.node, claimed);
          continue;
        }
        last = found;
        chart.add(found);
        if (found.reason === "tightening" && performance.now() - shown < 250) continue;
        shown = performance.now();
        live.textContent = said(found);
        chart.draw();
        show(claimed, votedClaim(found));
      }
    } finally {
      if (last) {
        live.textContent = signal.aborted ? `Stopped. What was proven holds: ${said(last)}` : `${said(last)}${ended(last)}`;
        chart.draw();
        show(claimed, votedClaim(last));
        if (state.learn(last, { model, image })) state.say(live.textContent);
      } else live.textContent = "Stopped.";
    }
  }

  const said = (found) => `After ${count(found.votes)} votes and ${milliseconds(found.seconds)}: ${found.outcome === "yes" ? `“${found.class_name}” is proven within ${radiusText(found.proven_radius)}.` : "nothing is proven yet."}`;

  const ended = ({ reason, explanation }) => (ENDS.has(reason) ? "" : ` ${capital(explanation)}.`);

  state.onModel(() => {
    const { tiers, kind } = state.model;
    const none = kind === "deterministic"
      ? "There is nothing for votes to prove: each certified radius of this model is a proof already, in one pass."
      : "The server does not offer these tiers of this model.";
    offer(buttons, tiers.certify_stream ? null : none, hint);
    confirm.disabled = !tiers.confirm;
    const most = tiers.certify_stream?.most_n ?? 0;
    show(number, NUMBERS.filter((votes) => votes <= most).map((votes) => el("option", { value: votes }, count(votes))));
    number.disabled = radius.input.disabled = !most;
  });
  state.onAnswer(() => {
    const { certified_radius } = state.answer;
    if (certified_radius > 0) radius.set(Math.max(0.01, Math.floor(200 * certified_radius) / 200));
  });
  state.onPicture(() => {
    buttons.halt();
    confirming.stop();
    for (const place of [result, confirmed, proof]) show(place);
  });
}

/** The proven radius over the votes that were taken. */
class Chart {
  constructor(votes, answer) {
    this.votes = votes;
    this.answer = answer;
    this.points = [];
    this.node = el("figure", { class: "chart" });
    this.draw();
  }

  add({ votes, proven_radius }) {
    this.points.push([votes, proven_radius]);
  }

  draw() {
    const served = this.answer.certified_radius;
    const top = 1.15 * Math.max(0.1, served, ...this.points.map(([, radius]) => radius));
    const x = (votes) => EDGE.left + (votes / this.votes) * (WIDTH - EDGE.left - EDGE.right);
    const y = (radius) => HEIGHT - EDGE.bottom - (radius / top) * (HEIGHT - EDGE.top - EDGE.bottom);
    let path = `M ${x(0)} ${y(0)}`;
    let before = 0;
    for (const [votes, radius] of this.points) {
      path += ` L ${x(votes)} ${y(before)} L ${x(votes)} ${y(radius)}`;
      before = radius;
    }
    const last = this.points.at(-1) ?? [0, 0];
    const label = (text, at_x, at_y, anchor = "middle") => svg("text", { x: at_x, y: at_y, "text-anchor": anchor }, text);
    show(this.node,
      svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Proven radius over votes: ${radiusText(last[1])} after ${count(last[0])} votes.` },
        [0, 0.5, 1].map((part) => {
          const radius = part * top / 1.15;
          return [svg("line", { class: "grid", x1: x(0), x2: x(this.votes), y1: y(radius), y2: y(radius) }), label(radius.toFixed(2), EDGE.left - 6, y(radius) + 4, "end")];
        }).flat(),
        [0, 0.5, 1].map((part) => label(`${count(Math.round(part * this.votes))}${part === 1 ? " votes" : ""}`, x(part * this.votes), HEIGHT - 14, part === 1 ? "end" : "middle")),
        served > 0 ? [svg("line", { class: "served", x1: x(0), x2: x(this.votes), y1: y(served), y2: y(served) })] : [],
        svg("path", { class: "proven", d: path }),
        svg("circle", { class: "proven", cx: x(last[0]), cy: y(last[1]), r: 4 })),
      el("figcaption", {},
        el("span", { class: "key proven" }, "proven radius, over the number of votes"),
        served > 0 ? el("span", { class: "key served" }, `what one pass claims: ${radiusText(served)} (a rate, not a proof)`) : null));
  }
}
