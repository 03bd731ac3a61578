// Answers under way. Several conversations may have one each, and it goes on while another one is shown.

import { empty, messages, take } from "./conversation.js";
import { call, events, reason } from "./lead.js";

const running = new Map();  // id of a conversation: the AbortController of its answer

export function underWay(id) {
  return running.has(id);
}

export function stop(id) {
  running.get(id)?.abort();
}

// Asks for `answer`, a new child of `parent`. Calls `changed` with what happens: "thinking", "text" or "end".
// `answer.state` ends as "done", "stopped" or "failed", and `answer.error` then says why.
export async function ask(conversation, parent, answer, changed) {
  const control = new AbortController();
  running.set(conversation.id, control);
  try {
    const response = await call("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request(conversation, parent, answer)),
      signal: control.signal,
    });
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      take(answer, chunk);
      changed(answer.thoughts && !answer.pieces.length && !answer.calls.length ? "thinking" : "text");
    }
    answer.state = "done";
  } catch (error) {
    answer.state = control.signal.aborted ? "stopped" : "failed";
    answer.error = control.signal.aborted ? "" : reason(error);
  }
  running.delete(conversation.id);
  changed("end");
  return !empty(answer) || answer.state === "done";
}

function request(conversation, parent, answer) {
  const { system, functions, ...sampling } = conversation.settings;
  return {
    ...sampling,
    ...(answer.model ? { model: answer.model } : {}),
    ...(functions ? { tools: JSON.parse(functions) } : {}),
    messages: messages(conversation, parent),
    stream: true,
    accepted: true,
  };
}
