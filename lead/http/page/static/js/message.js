// One message on the page: its text, its thinking, its calls, its figures, and what can be done with it.

import { empty, textOf } from "./conversation.js";
import { button, copy, element } from "./dom.js";
import { show } from "./markdown.js";

// actions: {retry, edit, version, results}, each called with the node, and what it needs beside it.
export class Message {
  constructor(parent, node, actions) {
    this.parent = parent;
    this.node = node;
    this.actions = actions;
    this.due = false;  // whether the next frame draws it
    this.editing = false;
    this.complete = false;  // whether it is drawn as a whole
    this.body = element("div", { className: "words" });
    this.below = element("div", { className: "below" });
    const label = { user: "you", assistant: "answer", tool: "results of tools" }[node.role];
    this.article = element("article", { className: node.role, "aria-label": label });
    if (node.role === "assistant") {
      this.thought = element("div");
      const summary = element("summary", { textContent: "thinking" });
      this.thoughts = element("details", { className: "thoughts", hidden: true }, summary, this.thought);
      this.calls = element("div", { className: "calls" });
      this.article.append(this.thoughts, this.body, this.calls);
    } else {
      this.article.append(this.body);
    }
    this.article.append(this.below);
    this.draw();
  }

  // Draws in the next frame, however many pieces come until then.
  drawSoon(after) {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.draw();
      after();
    });
  }

  draw() {
    const { node } = this;
    if (this.editing) return;
    const complete = node.state !== "under way";
    this.below.replaceChildren(...(complete ? this.foot() : []));
    if (this.complete) return;
    this.complete = complete;
    if (node.role === "assistant") {
      if (complete) this.article.removeAttribute("aria-busy");
      else this.article.setAttribute("aria-busy", "true");  // screen readers wait until it is complete
      this.thoughts.hidden = !node.thoughts;
      if (this.thought.textContent !== node.thoughts) this.thought.textContent = node.thoughts;
      show(this.body, node.pieces, complete);
      this.calls.replaceChildren(...node.calls.map(shownCall));
    } else if (node.role === "tool") {
      this.body.replaceChildren(...node.results.map(({ name, text }) =>
        element("p", {}, element("strong", { textContent: name }), ` gave ${text}`)));
    } else {
      this.body.textContent = node.text;
    }
  }

  foot() {
    const { node, parent, actions } = this;
    const tools = element("div", { className: "actions", role: "group", "aria-label": "actions" });
    if (parent.children.length > 1) tools.append(this.versions());
    if (node.role !== "tool") tools.append(button("copy", () => copy(textOf(node))));
    if (node.role === "user") tools.append(asking("edit", () => this.edit()));
    // A question without an answer can be asked again. So can an answer.
    if (node.role === "assistant" || !node.children.length) tools.append(asking("retry", () => actions.retry(node, parent)));
    const said = node.role === "assistant" ? figures(node) : "";
    const open = node.role === "assistant" && node.calls.length && !node.children.length && node.state === "done";
    return [
      ...(node.role === "assistant" ? [element("p", { className: "figures", textContent: said })] : []),
      ...(open ? [this.answersToCalls()] : []),
      tools,
    ];
  }

  versions() {
    const { parent, actions } = this;
    const go = (step, label) => {
      const made = button(step < 0 ? "earlier" : "later", () => actions.version(parent, parent.chosen + step), label);
      made.disabled = !parent.children[parent.chosen + step];
      return made;
    };
    const place = element("span", { textContent: `${parent.chosen + 1} of ${parent.children.length}` });
    return element("span", { className: "versions" }, go(-1, "earlier version"), place, go(1, "later version"));
  }

  edit() {
    const field = element("textarea", { value: this.node.text, rows: 3, "aria-label": "edited question" });
    this.editing = true;
    const end = () => {
      this.editing = this.complete = false;
      this.draw();
      this.below.querySelector(".actions button:not(:disabled)")?.focus();
    };
    const form = element("form", { className: "edit" }, field, button("cancel", end),
      element("button", { type: "submit", className: "asks", textContent: "ask this" }));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (!text) return;
      end();
      this.actions.edit(this.parent, text);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
      }
    });
    this.body.replaceChildren(form);
    this.below.replaceChildren();
    field.focus();
  }

  // What the tools gave is the person's to say: the page calls nothing.
  answersToCalls() {
    const fields = this.node.calls.map(({ name }) =>
      element("textarea", { rows: 1, placeholder: `what ${name} gives`, "aria-label": `result of ${name}` }));
    const form = element("form", { className: "results" }, ...fields,
      element("button", { type: "submit", className: "asks", textContent: "send results" }));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const results = this.node.calls.map(({ id, name }, i) => ({ id, name, text: fields[i].value }));
      this.actions.results(this.node, results);
    });
    return form;
  }
}

// A button that asks the lead, and so rests while an answer is under way.
function asking(text, act) {
  const made = button(text, act);
  made.className = "asks";
  return made;
}

function shownCall({ name, text }) {
  const code = element("pre", { tabIndex: 0 }, element("code", { textContent: text }));
  return element("div", { className: "call" }, element("p", {}, "calls ", element("strong", { textContent: name })), code);
}

// The line below an answer. What a person wants to know first comes first.
export function figures({ state, error, finish, timings, model, ...node }) {
  const parts = [];
  if (timings?.speedup) parts.push(times(timings.speedup));
  if (timings) {
    parts.push(`${timings.predicted_per_second.toFixed(1)} tokens/s`, `${timings.predicted_n} tokens`);
    if (timings.draft_n) parts.push(`${timings.draft_n_accepted} of ${timings.draft_n} guesses accepted`);
  }
  if (model) parts.push(model);
  if (finish === "length") parts.push("cut off at the limit");
  if (state === "stopped") parts.push("stopped");
  if (state === "failed") parts.push(`broke off: ${error}`);
  if (state === "done" && empty(node)) parts.push("an empty answer");
  return parts.join(" · ");
}

export function times({ times: factor, error }) {
  const sure = error ? ` (± ${error.toFixed(error < 0.095 ? 2 : 1)})` : "";
  return `${factor.toFixed(1)} x with backs${sure}`;
}
