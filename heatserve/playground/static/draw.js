// The drawing area: a pen for mouse and finger, and one that arrow keys move.

import { at } from "./dom.js";

const SIZE = 280;
const PEN = 26;
const KEY_STEP = 20;

/** Have the pad call `done` with a PNG after each stroke. */
export function drawingPad(done) {
  const pad = at("pad");
  const context = pad.getContext("2d", { alpha: false });
  let last = null; // where the pointer's stroke is
  let pen = { x: SIZE / 2, y: SIZE / 2, isDown: false }; // of the keyboard
  let ink = null; // what is drawn, while the cross of the keyboard's pen is shown above it

  function clear() {
    ink = null;
    context.fillStyle = "black";
    context.fillRect(0, 0, SIZE, SIZE);
  }

  function line(from, to) {
    Object.assign(context, { strokeStyle: "white", lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
  }

  function place(event) {
    const box = pad.getBoundingClientRect();
    return { x: ((event.clientX - box.left) * SIZE) / box.width, y: ((event.clientY - box.top) * SIZE) / box.height };
  }

  function hideCross() {
    if (ink) context.putImageData(ink, 0, 0);
    ink = null;
  }

  function showCross() {
    ink = context.getImageData(0, 0, SIZE, SIZE);
    Object.assign(context, { strokeStyle: pen.isDown ? "#ffb454" : "#7cc0ff", lineWidth: 3 });
    context.beginPath();
    context.moveTo(pen.x - 12, pen.y);
    context.lineTo(pen.x + 12, pen.y);
    context.moveTo(pen.x, pen.y - 12);
    context.lineTo(pen.x, pen.y + 12);
    context.stroke();
  }

  function hand() {
    hideCross();
    pad.toBlob((content) => content && done(content), "image/png");
  }

  pad.addEventListener("pointerdown", (event) => {
    hideCross();
    pad.setPointerCapture(event.pointerId);
    last = place(event);
    line(last, last);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const next = place(one);
      line(last, next);
      last = next;
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    pad.addEventListener(name, () => {
      if (last) hand();
      last = null;
    });
  }
  pad.addEventListener("keydown", (event) => {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    const isOurs = dx || dy || [" ", "Delete", "Backspace"].includes(event.key);
    if (!isOurs) return;
    event.preventDefault();
    hideCross();
    if (event.key === " ") {
      pen.isDown = !pen.isDown;
      if (pen.isDown) line(pen, pen);
      else hand();
    } else if (dx || dy) {
      const within = (value) => Math.min(SIZE - KEY_STEP, Math.max(KEY_STEP, value));
      const next = { ...pen, x: within(pen.x + dx * KEY_STEP), y: within(pen.y + dy * KEY_STEP) };
      if (pen.isDown) line(pen, next);
      pen = next;
    } else clear();
    showCross();
    const column = Math.round(pen.x / KEY_STEP);
    const row = Math.round(pen.y / KEY_STEP);
    at("pen").textContent = `Pen ${pen.isDown ? "down" : "up"}, column ${column}, row ${row} of ${SIZE / KEY_STEP - 1}.`;
  });
  pad.addEventListener("blur", hideCross);
  at("clear").addEventListener("click", () => {
    clear();
    pen = { x: SIZE / 2, y: SIZE / 2, isDown: false };
    at("pen").textContent = "Cleared.";
  });
  clear();
}
