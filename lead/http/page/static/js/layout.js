// Light and dark, and the columns at the sides. On a small screen a column covers the chat while it is open.

import { $ } from "./dom.js";
import { browser } from "./kept.js";

const THEME = "duo-theme";
const wide = matchMedia("(min-width: 64rem)");

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "light" : "dark";
  $("theme").setAttribute("aria-label", `switch to ${$("theme").textContent} colours`);
}

function column(id, open) {
  $(id).hidden = !open;
  $(`show-${id}`).setAttribute("aria-expanded", String(open));
}

function toggle(id, other) {
  const open = $(id).hidden;
  column(id, open);
  if (open && !wide.matches) column(other, false);
}

// Lets the chat be seen.
export function uncover() {
  if (wide.matches) return;
  for (const id of ["list", "state"]) column(id, false);
}

export function start() {
  theme(browser.get(THEME) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  $("theme").addEventListener("click", () => {
    theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    browser.set(THEME, document.documentElement.dataset.theme);
  });
  $("show-list").addEventListener("click", () => toggle("list", "state"));
  $("show-state").addEventListener("click", () => toggle("state", "list"));
  const fit = () => ["list", "state"].forEach((id) => column(id, wide.matches));
  wide.addEventListener("change", fit);
  fit();
}
