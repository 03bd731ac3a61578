// The colours of code. highlight.js says which characters are what; the text itself stays as it came.

import hljs from "highlight.js";

const LONGEST = 50_000;  // characters; longer code has no colours, or each new word would take too long

// [[from, to, class], ...] in order and without overlap. Empty where the language is not known.
export function colours(code, language) {
  const name = language.trim().split(/[\s,{]/)[0].toLowerCase();
  if (!name || code.length > LONGEST || !hljs.getLanguage(name)) return [];
  const html = hljs.highlight(code, { language: name, ignoreIllegals: true }).value;
  // A document of its own, in which nothing runs or loads. Only its text and classes are read.
  const parsed = new DOMParser().parseFromString(`<pre>${html}</pre>`, "text/html").body;
  // The parser drops or changes a few characters, such as a line break at the beginning. Colours would be misplaced.
  if (parsed.textContent !== code) return [];
  const found = [];
  let place = 0;
  const walk = (node, className) => {
    if (node.nodeType === Node.TEXT_NODE) {
      if (className) found.push([place, place + node.length, className]);
      place += node.length;
      return;
    }
    for (const child of node.childNodes) walk(child, child.className || className);
  };
  walk(parsed, "");
  return found;
}
