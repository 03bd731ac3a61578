// Requests to the lead.

import { tab } from "./kept.js";

const KEY = "duo-api-key";

export class Refused extends Error {}  // an API key is missing or wrong

let refused = () => {};

// `hear` is called when the lead wants a key, with whether one was sent.
export function onRefused(hear) {
  refused = hear;
}

// The key is kept for this tab, and nowhere else.
export function useKey(key) {
  tab.set(KEY, key);
}

export async function call(path, options = {}) {
  const key = tab.get(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    tab.forget(KEY);
    refused(key !== null);
    throw new Refused("the lead wants an API key");
  }
  if (!response.ok) throw new Error(await message(response));
  return response;
}

export async function message(response) {
  try {
    return String((await response.json()).error.message);
  } catch {
    return `the lead answered with HTTP status ${response.status}`;
  }
}

// What to tell a person about an error of `call` or `events`.
export function reason(error) {
  return error instanceof TypeError ? "no connection to the lead: is it still running?" : error.message;
}

// The events of a streamed answer, to its end.
export async function* events(response) {
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
