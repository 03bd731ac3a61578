// The conversation that is open: what is shown of it, and what its buttons do.

import { ask, stop, underWay } from "./answering.js";
import { add, assistant, conversation, last, remove, shown, toolResults, user } from "./conversation.js";
import { $, status } from "./dom.js";
import { Message } from "./message.js";
import * as settings from "./settings.js";
import * as store from "./store.js";

const SAVE_MS = 1000;  // while an answer grows

const held = new Map();  // conversations with an answer under way, which the store knows less of
let current = null;
let messages = [];
let model = () => "";
let listed = () => {};

// `chosenModel` gives the model to ask, or "". `changed` is called when the list of conversations has changed.
export function start(chosenModel, changed) {
  model = chosenModel;
  listed = changed;
}

export function id() {
  return current?.id;
}

// The model that gave the last answer, or "".
export function lastModel() {
  return shown(current).findLast(([, node]) => node.model)?.[1].model ?? "";
}

export function fresh(given = settings.get()) {
  open(conversation(given));
}

// Opens a stored conversation. Resolves to whether there is one.
export async function openStored(wanted) {
  const found = held.get(wanted) ?? (await store.load(wanted));
  if (found) open(found);
  return found !== null;
}

function open(found) {
  current = found;
  settings.put(current.settings);
  status("");
  draw();
  $("messages").scrollTop = $("messages").scrollHeight;
}

export function settingsChanged() {
  current.settings = settings.get();
  if (current.children.length) keep(current);
}

// Another tab has said more in a conversation.
export function changedElsewhere(changed) {
  if (changed === current.id && !underWay(changed)) openStored(changed);
}

// Draws all messages. Those that are there already stay, so focus and place stay as well.
function draw() {
  const path = shown(current);
  const before = new Map(messages.map((message) => [message.node, message]));
  messages = path.map(([parent, node]) => {
    const old = before.get(node);
    old?.draw();
    return old ?? new Message(parent, node, { retry, edit, version, results });
  });
  const articles = messages.map(({ article }) => article);
  for (const article of $("messages").querySelectorAll("article")) if (!articles.includes(article)) article.remove();
  for (const article of articles) if (!article.isConnected) $("messages").append(article);
  $("empty").hidden = articles.length > 0;
  busy();
}

function busy() {
  const now = underWay(current.id);
  $("send").hidden = now;
  $("stop").hidden = !now;
  for (const node of $("messages").querySelectorAll("button.asks")) node.disabled = now;
}

async function keep(found) {
  try {
    const news = await store.save(found);
    if (news && found === current) draw();
  } catch (error) {
    status(`this conversation cannot be kept: ${error.message}`, true);
  }
}

function following() {
  const box = $("messages");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
}

// Asks for an answer to `parent`. Resolves to whether there is one, or a part of one.
async function answerTo(parent) {
  const asked = current;
  const chosen = parent.chosen;
  const answer = assistant(model());
  add(parent, answer);
  held.set(asked.id, asked);
  const mine = () => current === asked;
  const message = () => messages.find(({ node }) => node === answer);
  const done = ask(asked, parent, answer, (what) => {
    if (what === "end" || !mine()) return;
    status(what === "thinking" ? "thinking" : "");
    const follow = following();
    message()?.drawSoon(() => follow && ($("messages").scrollTop = $("messages").scrollHeight));
  });
  draw();
  status("waiting for the first words");
  $("messages").scrollTop = $("messages").scrollHeight;
  asked.changed = Date.now();
  keep(asked).then(listed);
  if (mine()) history.replaceState(null, "", `#${asked.id}`);
  const saving = setInterval(() => keep(asked), SAVE_MS);
  const some = await done;
  clearInterval(saving);
  held.delete(asked.id);
  if (!some) remove(parent, answer, chosen);
  if (mine()) {
    const follow = following();
    draw();
    status(answer.state === "failed" ? answer.error : answer.state === "stopped" ? "stopped" : "", answer.state === "failed");
    if (follow) $("messages").scrollTop = $("messages").scrollHeight;
  }
  await keep(asked);
  return some;
}

// The end of the conversation gets a question, and that an answer. False while an answer is under way.
export function question(text) {
  if (underWay(current.id)) return false;
  current.settings = settings.get();
  const end = last(current) ?? current;
  const node = user(text);
  add(end, node);
  answerTo(node);
  return true;
}

function retry(node, parent) {
  if (underWay(current.id)) return;
  answerTo(node.role === "assistant" ? parent : node);
  $("question").focus();
}

function edit(parent, text) {
  if (underWay(current.id)) return;
  const node = user(text);
  add(parent, node);
  answerTo(node);
  $("question").focus();
}

function results(node, found) {
  if (underWay(current.id)) return;
  const given = toolResults(found);
  add(node, given);
  answerTo(given);
  $("question").focus();
}

function version(parent, chosen) {
  const at = messages.findIndex((message) => message.parent === parent);
  parent.chosen = chosen;
  draw();
  keep(current);
  // The button that was pressed is gone with its message. Its like is in the new one.
  messages[at]?.article.querySelector(".versions button:not(:disabled)")?.focus();
}

export function stopAnswer() {
  stop(current.id);
}
