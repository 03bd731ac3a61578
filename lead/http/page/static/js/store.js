// Conversations in this browser. They leave it only as questions to the lead.

import { openDB } from "idb";
import { flat, join, unflat } from "./conversation.js";

const NAME = "duo";
const STORE = "conversations";

let database = null;
const others = new BroadcastChannel(NAME);  // this page in other tabs

// Where a browser keeps nothing, conversations live as long as the page.
const memory = new Map();

// Resolves to whether conversations are kept.
export async function open() {
  try {
    database = await openDB(NAME, 1, { upgrade: (db) => db.createObjectStore(STORE, { keyPath: "id" }) });
    await database.count(STORE);  // another program at this address may have a database of this name
  } catch {
    database = null;
  }
  return database !== null;
}

// Null if there is none. Throws if it is damaged.
export async function load(id) {
  const found = database ? await database.get(STORE, id) : memory.get(id);
  return found ? unflat(found) : null;
}

// The conversation takes over what other tabs have stored of it meanwhile. Resolves to whether there was any.
export async function save(conversation) {
  const news = database ? await put(conversation) : false;
  if (!database) memory.set(conversation.id, structuredClone(flat(conversation)));
  others.postMessage(conversation.id);
  return news;
}

async function put(conversation) {
  const change = database.transaction(STORE, "readwrite");  // no other tab writes in between
  const there = await change.store.get(conversation.id);
  const news = there !== undefined && join(conversation, there);
  await Promise.all([change.store.put(flat(conversation)), change.done]);
  return news;
}

export async function forget(id) {
  if (database) await database.delete(STORE, id);
  else memory.delete(id);
  others.postMessage(id);
}

// [{id, title, changed}, ...], the last one first.
export async function list() {
  const all = database ? await database.getAll(STORE) : [...memory.values()];
  return all
    .map(({ id, title, changed }) => ({ id, title: title || "damaged conversation", changed: changed || 0 }))
    .sort((a, b) => b.changed - a.changed);
}

// The settings of the conversation that was changed last.
export async function lastSettings() {
  try {
    const [first] = await list();
    return first ? (await load(first.id)).settings : {};
  } catch {
    return {};
  }
}

// `hear` is called with the id of a conversation that another tab has changed.
export function onChangeElsewhere(hear) {
  others.addEventListener("message", (event) => hear(event.data));
}
