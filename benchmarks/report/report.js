for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), tip = chart.querySelector(".tip"), points = [...chart.querySelectorAll(".p")];
  let at = -1;
  const place = (p) => [+(p.dataset.x ?? p.getAttribute("cx")), +(p.dataset.y ?? p.getAttribute("cy"))];
  const says = points.map((p) => { const title = p.querySelector("title"); title.remove(); return title.textContent; });
  const show = (index) => {
    points[at]?.classList.remove("on");
    at = index;
    tip.hidden = at < 0;
    if (at < 0) return;
    points[at].classList.add("on");
    tip.textContent = says[at];
    const [x, y] = place(points[at]), scale = svg.clientWidth / svg.viewBox.baseVal.width;
    tip.style.left = Math.max(0, Math.min(x * scale - tip.offsetWidth / 2, chart.clientWidth - tip.offsetWidth)) + "px";
    tip.style.top = (y * scale > tip.offsetHeight + 14 ? y * scale - tip.offsetHeight - 12 : y * scale + 14) + "px";
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const mx = (event.clientX - box.left) * scale, my = (event.clientY - box.top) * scale;
    let best = -1, least = 900;
    points.forEach((p, i) => {
      const rect = p.tagName === "rect", [x, y] = place(p);
      const far = rect ? (Math.abs(my - y) < 22 ? 0 : 1e9) : (x - mx) ** 2 + (y - my) ** 2;
      if (far < least) { least = far; best = i; }
    });
    show(best);
  };
  chart.addEventListener("pointermove", nearest);
  chart.addEventListener("pointerdown", nearest);
  chart.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(-1); });
  chart.addEventListener("blur", () => show(-1));
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (!step || !points.length) return;
    event.preventDefault();
    show((at + step + points.length) % points.length);
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
