// The state of the lead: models, backs, slots, and whether backs help.

import { $, button, copy, element } from "./dom.js";
import { Refused, call, message } from "./lead.js";
import { times } from "./message.js";
import { picture } from "./picture.js";
import { defaults } from "./settings.js";
import { Speeds } from "./speeds.js";

const POLL_MS = 1000;
const SECRETS = "The secrets for KEY and TOKEN are on the lead's terminal, and in ~/.config/duo/access.json on its machine,"
  + " unless the lead was started with others.";

const speeds = new Speeds();
let next = 0;
let known = "";  // the model whose settings are shown
let wanted = "";  // the model that was chosen, which may not be known yet

// The model that is asked; "" if there is only one.
export function model() {
  return $("models").hidden ? "" : $("models").value;
}

// Offers the models to choose from, if there are several. The choice stays while it is among them.
function offer(models) {
  const chosen = wanted || $("models").value;
  const names = models.map(({ id }) => id);
  $("models").hidden = names.length < 2;
  $("models").replaceChildren(...models.map(({ id, status }) => {
    const state = status?.value ?? "loaded";
    return new Option(state === "loaded" ? id : `${id} (${state})`, id);
  }));
  if (names.includes(chosen)) $("models").value = chosen;
}

// The model that answers from now on, if it is there. Without a name, it stays.
export function choose(name) {
  wanted = name || wanted;
  if ([...$("models").options].some(({ value }) => value === wanted)) $("models").value = wanted;
}

$("models").addEventListener("change", () => choose($("models").value));

function row(cells, className) {
  return element("tr", { className }, ...cells.map((cell) => element("td", { textContent: cell })));
}

function fill(id, rows) {
  $(id).tBodies[0].replaceChildren(...rows);
}

function showBacks(backs) {
  const several = backs.some(({ target }) => target);
  fill("backs", backs.map((b) => row([
    several && b.target ? `${b.name} for ${b.target}` : b.name, b.state, b.drafted,
    b.drafted ? `${Math.round((100 * b.accepted) / b.drafted)} %` : "-",
    b.round_trip_ms === null ? "-" : `${b.round_trip_ms.toFixed(1)} ms`,
  ], b.state)));
  $("no-backs").hidden = backs.length > 0;
}

function showSpeedup(speedup) {
  const rests = speedup?.state === "resting";
  $("speedup").textContent = rests ? "resting" : speedup && speedup.state !== "none" ? times(speedup) : "Nothing is known yet.";
  $("speedup").className = speedup?.state ?? "";
  $("says").hidden = !speedup?.says;
  // Screen readers would hear it each second otherwise.
  if ($("says").textContent !== (speedup?.says ?? "")) $("says").textContent = speedup?.says ?? "";
}

function showPicture() {
  const drawn = picture(speeds.bins(Date.now()));
  $("picture").replaceChildren(...(drawn ? [drawn] : []));
}

function showSlots(slots) {
  fill("slots", slots.map((s) => row([
    s.id, s.state, s.state === "reading" ? `${s.prompt_read} of ${s.prompt_tokens}` : s.prompt_tokens || "-",
    s.completion_tokens || "-",
    s.tokens_per_second ? s.tokens_per_second.toFixed(1) : "-",
  ], s.state === "idle" ? "" : "busy")));
}

// The commands for other machines. The lead has none where others cannot reach it.
async function showJoin() {
  const commands = await optional("/join", {});
  const lines = [["Draft for it on another machine:", commands.back], ["Talk to it from there:", commands.chat]];
  const given = lines.filter(([, line]) => line);
  $("join").hidden = !given.length;
  $("join").replaceChildren(...given.flatMap(([what, line]) => [
    element("p", { textContent: what }),
    element("pre", { tabIndex: 0 }, element("code", { textContent: line })),
    button("copy", () => copy(line), `copy: ${line}`),
  ]));
  if (given.some(([, line]) => /\b(KEY|TOKEN)\b/.test(line))) $("join").append(element("p", { textContent: SECRETS }));
}

// What a path says, or `instead` where the lead does not tell it.
async function optional(path, instead) {
  try {
    return await (await call(path)).json();
  } catch (error) {
    if (error instanceof Refused || error instanceof TypeError) throw error;
    return instead;
  }
}

async function look() {
  const health = await fetch("/health");
  if (!health.ok) {
    $("model").textContent = health.status === 503 ? "loading the model" : await message(health);
    return;
  }
  const [models, backs, slots] = await Promise.all([
    call("/v1/models").then((answer) => answer.json()),
    call("/backs").then((answer) => answer.json()),
    optional("/slots", []),  // the lead may run with --no-slots
  ]);
  if (document.activeElement !== $("models")) offer(models.data);
  $("model").textContent = models.data.length > 1 ? "" : models.data[0].id;
  showBacks(backs.data);
  showSpeedup(backs.speedup);
  speeds.push(Date.now(), backs);
  showPicture();
  showSlots(slots);
  const asked = model() || models.data[0].id;
  if (known !== asked) {
    known = asked;
    await showJoin();
    const props = await optional(model() ? `/props?model=${encodeURIComponent(asked)}` : "/props", {});
    if (props.default_generation_settings) defaults(props.default_generation_settings.params);
  }
}

// Looks now, and then again and again.
export async function start() {
  clearTimeout(next);
  try {
    // A hidden page need not ask, and without a key the lead does not answer.
    if (!document.hidden && $("key-form").hidden) await look();
  } catch (error) {
    $("model").textContent = error instanceof TypeError ? "no connection to the lead" : error.message;
  }
  clearTimeout(next);
  next = setTimeout(start, POLL_MS);
}
