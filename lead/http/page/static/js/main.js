// Puts the parts of the page together.

import { $, status } from "./dom.js";
import * as key from "./key.js";
import * as layout from "./layout.js";
import * as list from "./list.js";
import * as settings from "./settings.js";
import * as state from "./state.js";
import * as store from "./store.js";
import * as thread from "./thread.js";

function showList() {
  return list.show(thread.id(), (gone) => {
    if (gone === thread.id()) begin();
    showList();
    $("new").focus();
  });
}

function begin() {
  thread.fresh();
  history.replaceState(null, "", location.pathname);
}

// The conversation that the address names, or a new one.
async function go() {
  const wanted = location.hash.slice(1);
  if (wanted && wanted === thread.id()) return;
  let found = false;
  let why = "this browser has no such conversation";
  try {
    found = wanted && (await thread.openStored(wanted));
  } catch {
    why = "this conversation is damaged in this browser, and cannot be shown";
  }
  if (!found) begin();
  if (wanted && !found) status(why, true);
  state.choose(thread.lastModel());
  await showList();
  layout.uncover();
  $("question").focus();
}

$("new").addEventListener("click", () => {
  if (location.hash) history.pushState(null, "", location.pathname);  // the browser's own button leads back
  thread.fresh();
  showList();
  layout.uncover();
  $("question").focus();
});

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("question").value.trim();
  if (!text || !thread.question(text)) return;
  $("question").value = "";
});

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

$("stop").addEventListener("click", () => {
  thread.stopAnswer();
  $("question").focus();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) thread.stopAnswer();
});

const colour = () => $("messages").classList.toggle("colour", $("colour").checked);
$("colour").addEventListener("change", colour);
colour();

layout.start();
settings.start(thread.settingsChanged);
key.start(state.start);
thread.start(state.model, showList);
$("not-kept").hidden = await store.open();
thread.fresh(await store.lastSettings());
store.onChangeElsewhere((id) => {
  thread.changedElsewhere(id);
  showList();
});
addEventListener("hashchange", go);
await go();
state.start();
