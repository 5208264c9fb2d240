// What Material for MkDocs leaves to be desired for who reads with a keyboard or a screen reader.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  const mend = () => {
    for (const wide of document.querySelectorAll(".md-typeset__scrollwrap")) {
      if (wide.scrollWidth > wide.clientWidth) {
        wide.tabIndex = 0; // can be moved sideways by keyboard
      }
    }
    document.querySelectorAll("nav.md-code__nav").forEach((part, at) => {
      part.setAttribute("aria-label", `Code ${at + 1}`); // each landmark has a name of its own
    });
    document.querySelectorAll(".md-nav .md-nav").forEach((part, at) => {
      const title = part.querySelector(".md-nav__title")?.textContent.trim() ?? "";
      part.removeAttribute("aria-labelledby");
      part.setAttribute("aria-label", `${title} (${at + 1})`);
    });
  };
  mend();
  new MutationObserver(mend).observe(document.querySelector("article"), { childList: true, subtree: true });
  addEventListener("resize", mend);
});
