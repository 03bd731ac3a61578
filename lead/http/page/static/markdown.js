// A small part of Markdown as DOM nodes: paragraphs, headings, lists, fenced code, bold, italics, code. The text comes
// in pieces, and every character keeps who guessed it. All text is shown in text nodes alone.

// pieces: [[text, back or ""], ...]. Returns nodes; Spans of class `guessed` mark what a back guessed.
export function render(pieces) {
  const text = pieces.map(([part]) => part).join("");
  const starts = [];  // where each piece begins
  let length = 0;
  for (const [part] of pieces) {
    starts.push(length);
    length += part.length;
  }

  // The characters from..to of the text, as spans and text nodes of `parent`.
  function put(parent, from, to) {
    let low = 0, high = starts.length;
    while (low + 1 < high) {  // the last piece that begins at `from` or before
      const middle = (low + high) >> 1;
      if (starts[middle] <= from) low = middle; else high = middle;
    }
    for (let i = low; from < to && i < pieces.length; i++) {
      const end = Math.min(to, starts[i] + pieces[i][0].length);
      if (end <= from) continue;
      const node = document.createTextNode(text.slice(from, end));
      if (pieces[i][1]) {
        const span = document.createElement("span");
        span.className = "guessed";
        span.title = `guessed by ${pieces[i][1]}`;
        span.append(node);
        parent.append(span);
      } else {
        parent.append(node);
      }
      from = end;
    }
  }

  // One line of running text, with its marks.
  function inline(parent, from, to) {
    const marks = /(`+)([^`]|[^`].*?[^`])\1(?!`)|\*\*(\S|\S.*?\S)\*\*|\*([^\s*]|[^\s*][^*]*?[^\s*])\*/g;
    const line = text.slice(from, to);
    let done = 0;
    for (let match; (match = marks.exec(line)); done = marks.lastIndex) {
      put(parent, from + done, from + match.index);
      const inner = match[2] ?? match[3] ?? match[4];
      const width = match[2] !== undefined ? match[1].length : match[3] !== undefined ? 2 : 1;
      const node = document.createElement(match[2] !== undefined ? "code" : match[3] !== undefined ? "strong" : "em");
      const begin = from + match.index + width;
      if (match[2] !== undefined) put(node, begin, begin + inner.length);
      else inline(node, begin, begin + inner.length);
      parent.append(node);
    }
    put(parent, from + done, to);
  }

  const blocks = [];
  let paragraph = null, list = null, item = null, code = null, fence = "", place = 0;
  for (const line of text.split("\n")) {
    const from = place, to = place + line.length;
    place = to + 1;
    const fenced = /^ {0,3}(`{3,}|~{3,})(.*)$/.exec(line);
    if (code) {
      if (fenced && fenced[1].startsWith(fence) && !fenced[2].trim()) code = null;
      else put(code, from, Math.min(place, text.length));
      continue;
    }
    if (fenced) {
      fence = fenced[1];
      code = document.createElement("code");
      const pre = document.createElement("pre");
      pre.tabIndex = 0;
      pre.append(code);
      blocks.push(pre);
      paragraph = list = item = null;
      continue;
    }
    if (!line.trim()) {
      paragraph = null;
      continue;
    }
    const heading = /^(#{1,6})\s+/.exec(line);
    if (heading) {
      const node = document.createElement(`h${Math.min(6, heading[1].length + 2)}`);
      inline(node, from + heading[0].length, to);
      blocks.push(node);
      paragraph = list = item = null;
      continue;
    }
    const entry = /^\s*([-*+]|(\d{1,9})[.)])\s+/.exec(line);
    if (entry) {
      const kind = entry[2] === undefined ? "UL" : "OL";
      if (!list || list.tagName !== kind) {
        list = document.createElement(kind);
        if (kind === "OL") list.start = Number(entry[2]);
        blocks.push(list);
      }
      item = document.createElement("li");
      list.append(item);
      inline(item, from + entry[0].length, to);
      paragraph = item;
      continue;
    }
    if (paragraph) {
      paragraph.append("\n");
      inline(paragraph, from, to);
      continue;
    }
    if (item && /^\s/.test(line)) {
      paragraph = document.createElement("p");
      item.append(paragraph);
    } else {
      list = item = null;
      paragraph = document.createElement("p");
      blocks.push(paragraph);
    }
    inline(paragraph, from, to);
  }
  return blocks;
}
