// Radii and what is promised about them. A radius is shown by `claim` only, which takes its promise along.

import { el } from "./dom.js";

const ALPHA = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, useGrouping: false });

/** What stands behind a radius, in a word and a sentence. */
export const KINDS = {
  rate: ["a rate", "Of such radii at most a stated share is too large, for pictures like those that the model was calibrated on. For a picture that somebody made to deceive, nothing is promised."],
  proof: ["proven", "No change of this size or smaller changes the class that is answered, whoever makes it."],
  votes: ["proven by votes", null],
  none: ["claims nothing", "A radius of 0 says nothing: neither that the class holds, nor that it does not."],
  nothing: ["promised nothing", "The formula of Cohen et al. without a correction, for comparison only."],
  unrounded: ["promised nothing", "The same radius without what rounding may cost, for comparison only."],
};

/** A length that promises nothing, such as a distance. */
export const lengthText = (length) => length.toFixed(3);
/** A radius, rounded down: what is shown is no more than what is held (but for 10⁻⁹). */
export const radiusText = (radius) => (Math.floor(1000 * radius + 1e-6) / 1000).toFixed(3);
export const milliseconds = (seconds) => seconds >= 1 ? `${seconds.toFixed(1)}\u00a0s` : `${(1000 * seconds).toFixed(seconds < 0.1 ? 1 : 0)}\u00a0ms`;
export function percent(share) {
  if (share > 0 && share < 0.0005) return "<\u00a00.1\u00a0%";
  return `${(100 * share).toFixed(share > 0.995 && share < 1 ? 2 : 1)}\u00a0%`;
}
export const count = (number) => number.toLocaleString("en");

/** How large a change of that L2 norm is, for an image of that shape. */
export function sizeText(radius, [channels, height, width]) {
  const pixels = channels * height * width;
  const all = `every one of the ${count(pixels)} ${channels > 1 ? "colour values" : "pixels"} by ${percent(radius / Math.sqrt(pixels))}`;
  const one = radius <= 1
    ? `one pixel by ${percent(radius)} of the way from black to white`
    : `${(radius * radius).toFixed(1)} pixels all the way from black to white`;
  return `As much as changing ${one}, or ${all}.`;
}

/** The kind of the radii that one pass serves. */
export const servedKind = (answer) => {
  if (answer.certified_radius === 0) return "none";
  return answer.kind === "deterministic" ? "proof" : "rate";
};

/**
 * A radius beside its promise.
 * @param {{title: string, radius: number, says: string, kind: string, promise?: string, alpha?: number, tier: string}} claimed
 */
export function claim({ title, radius, says, kind, promise, alpha, tier, isOpen = false }) {
  const isPromised = kind !== "nothing" && kind !== "unrounded";
  if (radius === 0 && isPromised) kind = "none";
  if (radius > 0 && kind === "none") throw new Error(`${title}: a radius that claims nothing`);
  const [word, sentence] = KINDS[kind];
  const short = kind === "votes"
    ? `Wrong with probability at most ${ALPHA.format(alpha)} for this picture, whoever made it.`
    : sentence;
  if (isPromised && !promise) throw new Error(`${title}: a radius without its promise`);
  return el("div", { class: `claim ${kind}` },
    el("p", { class: "claim-title" }, title, el("span", { class: "tier" }, tier)),
    el("p", { class: "radius" }, radiusText(radius)),
    el("div", { class: "claim-text" },
      el("p", {}, says),
      el("p", { class: "promise" }, el("span", { class: `badge ${kind}` }, word), short),
      promise ? el("details", { open: isOpen }, el("summary", {}, "The promise, word for word"), el("p", {}, promise)) : null));
}

/** The three radii of one pass. */
export function onePassClaims(answer, shape, { isOpen = false } = {}) {
  const kind = servedKind(answer);
  const isProof = answer.kind === "deterministic";
  const about = isProof ? "the class stays as it is" : "the smoothed classifier, an average over noisy copies of the picture, keeps this class";
  const certified = answer.certified_radius > 0
    ? `Up to a change of this size ${about}. ${sizeText(answer.certified_radius, shape)}`
    : `${capital(answer.explanation)}: nothing is claimed about this picture.`;
  return [
    claim({ title: "Certified radius", tier: "one pass", radius: answer.certified_radius, says: certified, kind, promise: answer.promise, isOpen }),
    claim({
      title: "L-bound", tier: "one pass", radius: answer.l_bound, kind, promise: answer.promise,
      says: isProof ? "For this model the same number as the certified radius." : "A simpler bound on the same distance, which is never larger: it needs only how quickly an average can change.",
    }),
    claim({
      title: "Nominal radius", tier: "one pass", radius: answer.nominal_radius, kind: isProof ? "unrounded" : "nothing",
      says: isProof ? "The same distance without what is taken off for rounding." : "What the model's own probabilities would mean if one pass were exactly the average.",
    }),
  ];
}

const IN_TIME = new Set(["hopeless", "votes"]); // reasons of an undecided answer that are about the picture

/** What confirm said, beside its promise. */
export function confirmedClaim(answer) {
  const open = IN_TIME.has(answer.reason) ? "Not confirmed" : "Not decided in time";
  const said = { yes: "Confirmed", no: "Refused: not true", undecided: open }[answer.outcome];
  return el("div", { class: `verdict ${answer.outcome}` },
    el("p", { class: "verdict-title" }, `${said} — radius ${radiusText(answer.asked_radius)}`),
    el("p", {}, `${capital(answer.explanation)}. ${count(answer.votes)} noisy votes, answered in ${milliseconds(answer.seconds)}.`),
    el("p", { class: "promise" }, el("span", { class: "badge votes" }, "confirm"),
      answer.outcome === "undecided"
        ? "Undecided says nothing: neither that the radius holds, nor that it does not."
        : `This answer is wrong with probability at most ${ALPHA.format(answer.alpha)} for this picture, whoever made it.`),
    el("details", {}, el("summary", {}, "The promise, word for word"), el("p", {}, answer.promise)));
}

/** What votes prove, as a claim. */
export function votedClaim(answer, title = "Proven radius") {
  const name = answer.class_name ?? "no class";
  return claim({
    title, tier: "certify", radius: answer.proven_radius, kind: "votes", alpha: answer.alpha, promise: answer.promise,
    says: answer.outcome === "yes"
      ? `Votes prove that the smoothed classifier answers “${name}” for every picture within this distance.`
      : `${capital(answer.explanation)}: votes prove nothing about this picture yet.`,
  });
}

/** A sentence's beginning. */
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
