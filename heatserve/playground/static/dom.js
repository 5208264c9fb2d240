// Elements without markup: text is always text, whatever a class or a file is called.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties or attributes, and children that are nodes or text. */
export function el(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same for a drawing. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** What an element holds from now on. */
export function show(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

/** The element of that id. */
export const at = (id) => document.getElementById(id);

/** A button. */
export function button(text, press, properties = {}) {
  return el("button", { type: "button", onclick: press, ...properties }, text);
}

/** A labelled slider; `say` turns its value into text. */
export function slider({ id, label, min, max, step, value, say, moved, hint }) {
  const output = el("output", { for: id }, say(value));
  const input = el("input", {
    type: "range", id, min, max, step, value, "aria-valuetext": say(value),
    "aria-describedby": hint ? `${id}-hint` : null,
    oninput: () => set(Number(input.value), true),
  });
  function set(found, isMoved = false) {
    if (!isMoved) input.value = found;
    const text = say(Number(input.value));
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
    if (isMoved) moved?.(Number(input.value));
  }
  const node = el("div", { class: "field slider" },
    el("div", { class: "line" }, el("label", { for: id }, label), output), input,
    hint ? el("p", { class: "hint", id: `${id}-hint` }, hint) : null);
  return { node, set, input, value: () => Number(input.value) };
}

/** The sentence of an error. */
export function problem(text) {
  return el("p", { class: "problem", role: "alert" }, text);
}

/** Whether the picture was answered; where not, a place says what to do first. */
export function isAnswered({ image, answer }, place) {
  if (!image || !answer) show(place, problem(image ? "One pass has not answered this picture yet." : "Choose a picture first."));
  return Boolean(image && answer);
}
