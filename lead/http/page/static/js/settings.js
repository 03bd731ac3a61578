// The fields under "settings". They belong to the conversation; a new one begins with those of the last.

import { $ } from "./dom.js";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repeat_penalty", "seed", "max_tokens"];
const TEXTS = ["system", "reasoning_effort", "functions"];

export function put(settings) {
  for (const name of [...NUMBERS, ...TEXTS]) $(name).value = settings[name] ?? "";
  check();
}

// What the fields say, without those that are empty.
export function get() {
  const found = {};
  for (const name of NUMBERS) {
    if ($(name).value !== "" && Number.isFinite($(name).valueAsNumber)) found[name] = $(name).valueAsNumber;
  }
  for (const name of TEXTS) {
    if ($(name).value.trim() && (name !== "functions" || check())) found[name] = $(name).value;
  }
  return found;
}

// Whether the tools can be sent. Says what is wrong with them.
export function check() {
  let wrong = "";
  try {
    if ($("functions").value.trim() && !Array.isArray(JSON.parse($("functions").value))) {
      wrong = "Tools are a JSON list: put [ ] around them.";
    }
  } catch (error) {
    wrong = `Tools are not sent: ${error.message}`;
  }
  $("functions-error").textContent = wrong;
  $("functions").setAttribute("aria-invalid", String(Boolean(wrong)));
  return !wrong;
}

// `changed` is called after each change.
export function start(changed) {
  $("settings").addEventListener("input", () => {
    check();
    changed();
  });
}

// Shows what counts where a field is empty. params: of GET /props.
export function defaults(params) {
  for (const name of NUMBERS) {
    if (params[name] !== undefined && name !== "seed") $(name).placeholder = String(params[name]);
  }
}
