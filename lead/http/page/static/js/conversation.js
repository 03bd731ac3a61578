// A conversation is a tree: asking again and editing add versions beside what was there. It sees no page and no network.
//
// conversation: {id, changed, settings, children, chosen}
// user:         {role: "user", text, children, chosen}
// assistant:    {role: "assistant", pieces: [[text, back or ""], ...], thoughts, calls, state, ...,  children, chosen}
// tool:         {role: "tool", results: [{id, name, text}, ...], children, chosen}
//
// `chosen` is the version that is shown. Every message has an `id`, by which tabs know it.

const TITLE = 60;

export function newId() {
  // crypto.randomUUID exists only on pages that came over HTTPS.
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function conversation(settings) {
  return { id: newId(), changed: Date.now(), settings: { ...settings }, children: [], chosen: 0 };
}

export function user(text) {
  return { role: "user", id: newId(), text, children: [], chosen: 0 };
}

export function assistant(model) {
  return {
    role: "assistant", id: newId(), model, pieces: [], thoughts: "", calls: [], state: "under way", finish: "", timings: null,
    error: "", children: [], chosen: 0,
  };
}

export function toolResults(results) {
  return { role: "tool", id: newId(), results, children: [], chosen: 0 };
}

// Adds a version and shows it.
export function add(parent, node) {
  parent.children.push(node);
  parent.chosen = parent.children.length - 1;
}

export function remove(parent, node, chosen) {
  parent.children.splice(parent.children.indexOf(node), 1);
  parent.chosen = Math.max(0, Math.min(chosen, parent.children.length - 1));
}

// What is shown, from the first to the last: [[parent, node], ...].
export function shown(root) {
  const found = [];
  for (let parent = root; parent.children.length; parent = parent.children[parent.chosen]) {
    found.push([parent, parent.children[parent.chosen]]);
  }
  return found;
}

export function textOf(node) {
  return node.role === "assistant" ? node.pieces.map(([text]) => text).join("") : node.text ?? "";
}

export function empty(answer) {
  return !answer.pieces.length && !answer.calls.length && !answer.thoughts;
}

// The end of the conversation, as it is shown.
export function last(root) {
  return shown(root).at(-1)?.[1] ?? null;
}

export function title(root) {
  const first = shown(root)[0]?.[1].text ?? "";
  const line = first.trim().split("\n")[0];
  return line.length > TITLE ? `${line.slice(0, TITLE)}…` : line || "new conversation";
}

// The conversation as a browser can store it: a list of messages, for what is nested deeply cannot be stored.
export function flat(root) {
  const { children, ...rest } = root;
  const nodes = children.map((node) => ({ ...node, parent: -1 }));
  for (let i = 0; i < nodes.length; i++) {
    for (const node of nodes[i].children) nodes.push({ ...node, parent: i });
    delete nodes[i].children;
  }
  return { ...rest, title: title(root), nodes };
}

// The conversation of which `flat` made this. An answer that was under way has broken off.
export function unflat({ title, nodes, ...rest }) {
  const root = { ...rest, children: [] };
  const made = nodes.map(({ parent, ...node }, i) => ({ ...node, id: idOf(node, i), children: [] }));
  nodes.forEach(({ parent }, i) => (made[parent] ?? root).children.push(made[i]));
  for (const node of made) {
    if (node.state === "under way") Object.assign(node, { state: "failed", error: "the page was closed" });
  }
  return root;
}

// Messages of older pages have no ids.
function idOf(node, place) {
  return node.id ?? `${place}`;
}

// Takes over what another tab has stored of this conversation. Its messages become further versions, and its answers
// that have grown grow here. Returns whether there was any. `stored`: as `flat` made it.
export function join(root, { nodes }) {
  const known = new Map(all(root).map((node) => [node.id, node]));
  const places = [];
  let news = false;
  nodes.forEach(({ parent, ...node }, i) => {
    const above = parent < 0 ? root : places[parent];
    const here = known.get(idOf(node, i));
    places[i] = here;
    if (here) {
      if (!grown(node, here)) return;
      Object.assign(here, { ...node, children: here.children, chosen: here.chosen });
    } else {
      if (!above || (node.state === "under way" && empty(node))) return;  // it may come to nothing
      places[i] = { ...node, id: idOf(node, i), children: [] };
      above.children.push(places[i]);
    }
    news = true;
  });
  for (const node of places) if (node) node.chosen = Math.max(0, Math.min(node.chosen, node.children.length - 1));
  return news;
}

function all(root) {
  const found = [...root.children];
  for (const node of found) found.push(...node.children);
  return found;
}

// Whether the answer `there` has more than the same one `here`.
function grown(there, here) {
  if (there.role !== "assistant") return false;
  const more = size(there) - size(here);
  return more > 0 || (more === 0 && there.state === "done" && here.state !== "done");
}

function size(answer) {
  return textOf(answer).length + answer.thoughts.length + answer.calls.reduce((sum, { text }) => sum + text.length, 0);
}

// The messages of a request whose answer becomes a child of `until`.
export function messages(root, until) {
  const system = (root.settings.system ?? "").trim();
  const found = system ? [{ role: "system", content: system }] : [];
  for (const [, node] of shown(root)) {
    if (node.role === "tool") {
      for (const { id, name, text } of node.results) found.push({ role: "tool", tool_call_id: id, name, content: text });
    } else {
      found.push({ role: node.role, content: textOf(node), ...(node.role === "assistant" ? beside(node) : {}) });
    }
    if (node === until) break;
  }
  return found;
}

function beside(node) {
  const calls = node.calls.map(({ id, name, text }) => ({ id, type: "function", function: { name, arguments: text } }));
  return { ...(node.thoughts ? { reasoning_content: node.thoughts } : {}), ...(calls.length ? { tool_calls: calls } : {}) };
}

// Takes one chunk of a stream into an answer.
export function take(answer, chunk) {
  for (const { delta, accepted, finish_reason: finish } of chunk.choices ?? []) {
    answer.thoughts += delta.reasoning_content ?? "";
    if (delta.content) takePieces(answer.pieces, accepted ?? [[delta.content, ""]]);
    for (const call of delta.tool_calls ?? []) takeCall(answer.calls, call);
    answer.finish = finish ?? answer.finish;
  }
  answer.timings = chunk.timings ?? answer.timings;
}

function takePieces(pieces, more) {
  for (const [text, back] of more) {
    if (pieces.length && pieces.at(-1)[1] === back) pieces.at(-1)[0] += text;
    else pieces.push([text, back]);
  }
}

function takeCall(calls, { index, id, function: said }) {
  const call = (calls[index] ??= { id: "", name: "", text: "" });
  call.id ||= id ?? "";
  call.name += said?.name ?? "";
  call.text += said?.arguments ?? "";
}
