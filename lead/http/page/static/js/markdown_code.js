// Blocks of code: a line with the fence and the language, the code in its colours, the closing fence.

import { colours } from "./code.js";
import { copy } from "./dom.js";
import { children } from "./tree.js";

export function codeBlock(source, parent, node) {
  const block = document.createElement("div");
  block.className = "code";
  const parts = children(node);
  const texts = parts.filter((part) => part.name === "CodeText");
  const info = parts.find((part) => part.name === "CodeInfo");
  const from = texts[0]?.from ?? node.to, to = texts.at(-1)?.to ?? node.to;
  const code = source.text.slice(from, to);
  // Marks of a quote or a list may stand within the code. They are no part of it, and it then has no colours.
  const whole = texts.length === 1;
  const opening = document.createElement("div");
  opening.className = "fence";
  source.mark(opening, node.from, from);
  if (texts.length) opening.append(copier(texts.map((text) => source.text.slice(text.from, text.to)).join("")));
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  const inner = document.createElement("code");
  pre.append(inner);
  let place = from;
  for (const [start, end, className] of whole && info ? colours(code, source.text.slice(info.from, info.to)) : []) {
    source.put(inner, place, from + start);
    const span = document.createElement("span");
    span.className = className;
    source.put(span, from + start, from + end);
    inner.append(span);
    place = from + end;
  }
  source.put(inner, place, to);
  if (node.from < from || texts.length) block.append(opening);
  if (texts.length) block.append(pre);
  if (to < node.to) {
    const closing = document.createElement("div");
    closing.className = "fence";
    source.mark(closing, to, node.to);
    block.append(closing);
  }
  parent.append(block);
}

// Its word comes from the style sheet, so the text of the answer holds nothing but the answer.
function copier(code) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copier";
  button.setAttribute("aria-label", "copy the code");
  button.addEventListener("click", () => copy(code));
  return button;
}
