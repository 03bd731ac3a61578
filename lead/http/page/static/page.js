// The chat, and the state of the lead. All text of the lead or a model goes into the page as text nodes.

import { render } from "./markdown.js";

const POLL_MS = 1000;
const KEY = "duo-api-key";
const THEME = "duo-theme";

const $ = (id) => document.getElementById(id);

class Refused extends Error {}  // an API key is missing or wrong

// -- The lead ---------------------------------------------------------------------------------------------------

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    askForKey(key !== null);
    throw new Refused("the lead wants an API key");
  }
  if (!response.ok) throw new Error(await message(response));
  return response;
}

async function message(response) {
  try {
    return String((await response.json()).error.message);
  } catch {
    return `the lead answered with HTTP status ${response.status}`;
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the connection to the lead broke in the middle of the answer");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// -- API key ----------------------------------------------------------------------------------------------------

function askForKey(wrong) {
  sessionStorage.removeItem(KEY);
  if ($("key-form").hidden) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  // Polls continue without a key, and must not remove the line.
  if (wrong) $("key-error").textContent = "The lead does not take this key.";
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  // A header cannot hold anything else. Sending it would look like a lost connection.
  if (!/^[\x21-\x7e]+$/.test(given)) {
    $("key-error").textContent = "A key has only letters, digits and signs of ASCII, and no spaces.";
    return;
  }
  sessionStorage.setItem(KEY, given);
  $("key").value = "";
  $("key-error").textContent = "";
  $("key-form").hidden = true;
  look();
});

// -- The conversation -------------------------------------------------------------------------------------------

const turns = [];  // {role, content}
let running = null;  // the AbortController of the answer under way

function article(role) {
  const node = document.createElement("article");
  node.className = role;
  node.setAttribute("aria-label", role === "user" ? "you" : "answer");
  $("empty").hidden = true;
  $("messages").append(node);
  return node;
}

function status(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

function following() {
  const box = $("messages");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
}

// Resolves to whether there is an answer, or a part of one. If not, the conversation is unchanged.
async function ask(question) {
  const asked = { role: "user", content: question };
  const shownQuestion = article("user");
  shownQuestion.textContent = question;
  const shown = article("assistant");
  const thoughts = document.createElement("details");
  thoughts.className = "thoughts";
  thoughts.hidden = true;
  const thought = document.createElement("div");
  thoughts.append(Object.assign(document.createElement("summary"), { textContent: "thoughts" }), thought);
  const words = document.createElement("div");
  shown.append(thoughts, words);
  shown.setAttribute("aria-busy", "true");  // screen readers wait until it is complete
  const pieces = [];
  let finish = "", timings = null, due = false;
  const draw = () => {
    due = false;
    const follow = following();
    words.replaceChildren(...render(pieces));
    if (follow) $("messages").scrollTop = $("messages").scrollHeight;
  };
  running = new AbortController();
  busy(true);
  status("waiting for the first words");
  let failed = null;
  try {
    const response = await call("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...settings(), messages: [...system(), ...turns, asked], stream: true, accepted: true }),
      signal: running.signal,
    });
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) {
        const reasoning = choice.delta.reasoning_content;
        if (reasoning) {
          status("thinking");
          thoughts.hidden = false;
          thought.textContent += reasoning;
        }
        const text = choice.delta.content;
        if (text) {
          status("");
          pieces.push(...(choice.accepted ?? [[text, ""]]));
          if (!due) {
            due = true;
            requestAnimationFrame(draw);
          }
        }
        finish = choice.finish_reason ?? finish;
      }
      timings = event.timings ?? timings;
    }
  } catch (error) {
    failed = error;
  }
  const stopped = running.signal.aborted;
  running = null;
  busy(false);
  if (failed && !(stopped && pieces.length)) {
    shownQuestion.remove();
    shown.remove();
    $("empty").hidden = turns.length > 0;
    const lost = failed instanceof TypeError ? "no connection to the lead: is it still running?" : failed.message;
    status(stopped ? "stopped" : lost, !stopped);
    return false;
  }
  draw();
  shown.removeAttribute("aria-busy");
  turns.push(asked, { role: "assistant", content: pieces.map(([text]) => text).join("") });
  status(stopped ? "stopped" : "");
  const line = figures(timings, finish);
  if (line) {
    const node = document.createElement("p");
    node.className = "figures";
    node.textContent = line;
    shown.append(node);
    $("messages").scrollTop = $("messages").scrollHeight;
  }
  return true;
}

function figures(timings, finish) {
  if (!timings) return "";
  const parts = [`${timings.predicted_n} tokens`, `${timings.predicted_per_second.toFixed(1)} tokens/s`];
  if (timings.draft_n) parts.push(`${timings.draft_n_accepted} of ${timings.draft_n} guesses accepted`);
  if (finish === "length") parts.push("cut off at the limit");
  return parts.join(" · ");
}

function system() {
  const text = $("system").value.trim();
  return text ? [{ role: "system", content: text }] : [];
}

function settings() {
  const set = {};
  for (const name of ["temperature", "seed"]) {
    const field = $(name);
    if (field.value !== "" && Number.isFinite(field.valueAsNumber)) set[name] = field.valueAsNumber;
  }
  return set;
}

function busy(now) {
  $("send").hidden = now;
  $("stop").hidden = !now;
  $("retry").disabled = $("new").disabled = now;
}

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  if (!(await ask(question)) && !$("question").value) $("question").value = question;
});

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

$("stop").addEventListener("click", () => {
  running?.abort();
  $("question").focus();
});

$("retry").addEventListener("click", async () => {
  if (turns.length < 2) return;
  const before = turns.splice(-2);
  const shown = [...$("messages").querySelectorAll("article")].slice(-2);
  for (const node of shown) node.remove();
  if (await ask(before[0].content)) return;
  turns.push(...before);
  $("empty").hidden = true;
  $("messages").append(...shown);
});

$("new").addEventListener("click", () => {
  turns.length = 0;
  for (const node of $("messages").querySelectorAll("article")) node.remove();
  $("empty").hidden = false;
  status("");
  $("question").focus();
});

const colour = () => $("messages").classList.toggle("colour", $("colour").checked);
$("colour").addEventListener("change", colour);
colour();

// -- The state of the lead --------------------------------------------------------------------------------------

function row(cells, className) {
  const node = document.createElement("tr");
  node.className = className;
  for (const cell of cells) {
    const td = document.createElement("td");
    td.textContent = cell;
    node.append(td);
  }
  return node;
}

function fill(id, rows) {
  $(id).tBodies[0].replaceChildren(...rows);
}

async function state() {
  const health = await fetch("/health");
  if (!health.ok) {
    $("model").textContent = health.status === 503 ? "loading the model" : await message(health);
    return;
  }
  const [models, backs, slots] = await Promise.all(
    ["/v1/models", "/backs", "/slots"].map(async (path) => {
      try {
        const content = await (await call(path)).json();
        return content.data ?? content;
      } catch (error) {
        // The lead may run with --no-slots.
        if (path !== "/slots" || error instanceof Refused || error instanceof TypeError) throw error;
        return [];
      }
    }),
  );
  $("model").textContent = models[0].id;
  $("no-backs").hidden = backs.length > 0;
  fill("backs", backs.map((b) => row([
    b.name, b.state, b.drafted,
    b.drafted ? `${Math.round((100 * b.accepted) / b.drafted)} %` : "-",
    b.round_trip_ms === null ? "-" : `${b.round_trip_ms.toFixed(1)} ms`,
  ], b.state === "drafting" ? "drafting" : "")));
  fill("slots", slots.map((s) => row([
    s.id, s.state, s.state === "reading" ? `${s.prompt_read} of ${s.prompt_tokens}` : s.prompt_tokens || "-",
    s.completion_tokens || "-",
    s.tokens_per_second ? s.tokens_per_second.toFixed(1) : "-",
  ], s.state === "idle" ? "" : "busy")));
}

let next = 0;

async function look() {
  clearTimeout(next);
  try {
    // A hidden page need not ask, and without a key the lead does not answer.
    if (!document.hidden && $("key-form").hidden) await state();
  } catch (error) {
    if (error instanceof TypeError) $("model").textContent = "no connection to the lead";
    else $("model").textContent = error.message;
  }
  clearTimeout(next);
  next = setTimeout(look, POLL_MS);
}

// -- Light and dark ---------------------------------------------------------------------------------------------

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "light" : "dark";
  $("theme").setAttribute("aria-label", `switch to ${$("theme").textContent} colours`);
}

theme(localStorage.getItem(THEME) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
$("theme").addEventListener("click", () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  localStorage.setItem(THEME, document.documentElement.dataset.theme);
});

look();
