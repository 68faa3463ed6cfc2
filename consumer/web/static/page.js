// Keeps the page true: the server sends each part anew when it has changed, already as HTML.
"use strict";

const PARTS = ["state", "now", "figures"];
const REFUSED_MILLISECONDS = 30000;
const cut = document.getElementById("cut");

function replace(name, html) {
  const part = document.getElementById(name);
  const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
  const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  part.innerHTML = html;
  open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
  // Whoever went somewhere by keyboard stays there.
  if (focused) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function listen() {
  const source = new EventSource("live");
  PARTS.forEach((name) => source.addEventListener(name, (event) => replace(name, event.data)));
  source.onopen = () => { cut.textContent = ""; };
  source.onerror = () => {
    cut.textContent = cut.dataset.text;
    // A browser goes on by itself unless it was refused.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, REFUSED_MILLISECONDS);
  };
  // A page that is left frees its stream at once; one that is returned to begins anew.
  addEventListener("pagehide", () => source.close(), { once: true });
}

addEventListener("pageshow", (event) => { if (event.persisted) listen(); });
listen();
