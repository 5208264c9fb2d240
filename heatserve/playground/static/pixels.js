// Images as the server has them: {shape: [C, H, W], pixels: float32 in [0,1], in base64}.

import { el } from "./dom.js";

/** The numbers of an image. */
export function numbers(image) {
  const bytes = Uint8Array.from(atob(image.pixels), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Paint numbers [C, H, W] on a canvas, a pixel for a pixel. */
function paint(canvas, values, [channels, height, width]) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const data = context.createImageData(width, height);
  const plane = height * width;
  for (let i = 0; i < plane; i += 1) {
    for (let c = 0; c < 3; c += 1) data.data[4 * i + c] = 255 * values[i + (channels === 3 ? c * plane : 0)];
    data.data[4 * i + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

/** A canvas with an image on it. */
export function canvasOf(image, alt) {
  const canvas = el("canvas", { class: "pixels", role: "img", "aria-label": alt });
  paint(canvas, numbers(image), image.shape);
  return canvas;
}

/** Paint another image on such a canvas. */
export function repaint(canvas, image) {
  paint(canvas, numbers(image), image.shape);
}

/** The difference of two images, made stronger until it can be seen: grey is no change. */
export function difference(image, other) {
  const from = numbers(image);
  const to = numbers(other);
  let largest = 0;
  for (let i = 0; i < from.length; i += 1) largest = Math.max(largest, Math.abs(to[i] - from[i]));
  const factor = largest > 0 ? 0.5 / largest : 1;
  const canvas = el("canvas", {
    class: "pixels", role: "img", "aria-label": `The change alone, ${amplified(factor)}; grey is no change.`,
  });
  paint(canvas, from.map((value, i) => 0.5 + factor * (to[i] - value)), image.shape);
  return { canvas, factor };
}

/** How much stronger a change is shown than it is. */
export function amplified(factor) {
  const number = factor >= 10 ? Math.round(factor) : factor.toFixed(1);
  return factor >= 1 ? `amplified ${number} times` : `shown at ${number} of its strength`;
}

/** A canvas with lines of text below it. */
export function figure(canvas, title, ...lines) {
  return el("figure", {}, canvas, el("figcaption", {}, el("strong", {}, title), ...lines.filter(Boolean).map((line) => el("span", {}, line))));
}

/** An image and how it differs from another one, each with its caption. */
export function changedFigures(image, other, title, lines) {
  const { canvas, factor } = difference(image, other);
  return el("div", { class: "pair" },
    figure(canvasOf(other, title), title, ...lines),
    figure(canvas, "its change alone", amplified(factor), "grey: no change"));
}
