// Markdown as DOM nodes that lose nothing: every character of the source is in them, in order. Marks such as ** are
// there too, dimmed. So HTML is text, and what looks like a mark and is none does no harm.
//
// @lezer/markdown gives a tree in which all marks are nodes. Each node becomes an element. What lies between its
// children is text.

import { GFM, parser as commonmark } from "@lezer/markdown";
import { codeBlock } from "./markdown_code.js";
import { table } from "./markdown_table.js";
import { Pieces } from "./pieces.js";
import { children } from "./tree.js";

const parser = commonmark.configure([GFM]);

const DEEPEST = 40;  // blocks and marks within each other; what is deeper is plain text

const TAGS = {
  Paragraph: "p", Task: "p", Blockquote: "blockquote", BulletList: "ul", OrderedList: "ol", ListItem: "li",
  Emphasis: "em", StrongEmphasis: "strong", Strikethrough: "del", InlineCode: "code", Link: "span", Image: "span",
  Autolink: "span", HardBreak: "span",
};
const CLASSES = {
  HTMLBlock: "source", CommentBlock: "source", ProcessingInstructionBlock: "source", LinkReference: "source",
  HorizontalRule: "rule", HardBreak: "break",
};
const MARKS = new Set([
  "HeaderMark", "ListMark", "LinkMark", "EmphasisMark", "CodeMark", "StrikethroughMark", "LinkTitle",
]);

// Shows pieces in a box. While an answer grows, only its last blocks change; the others stay as they are.
export function show(box, pieces, complete = true) {
  const source = new Source(new Pieces(pieces));
  const before = box.blocks ?? [];
  const blocks = [];
  let place = 0;
  for (const node of children(source.tree.topNode)) {
    blocks.push({ name: node.name, from: place, to: node.to, node });
    place = node.to;
  }
  // A later block can end a list or define a link. So a complete answer is drawn anew.
  let same = 0;
  while (!complete && same < Math.min(blocks.length, before.length) - 1 && equal(blocks[same], before[same])) same++;
  box.blocks = before.slice(0, same);
  const rest = box.blocks.flatMap(({ nodes }) => nodes).at(-1) ?? null;
  while (box.lastChild !== rest) box.lastChild.remove();
  for (const { name, from, to, node } of blocks.slice(same)) {
    const part = document.createDocumentFragment();
    source.pieces.put(part, from, node.from);
    source.block(part, node, 1);
    const nodes = [...part.childNodes];
    box.append(part);
    box.blocks.push({ name, from, to, nodes });
  }
  source.pieces.put(box, place, source.text.length);
}

function equal(a, b) {
  return a.name === b.name && a.from === b.from && a.to === b.to;
}

class Source {
  constructor(pieces) {
    this.pieces = pieces;
    this.text = pieces.text;
    this.tree = parser.parse(this.text);
    this.definitions = null;
  }

  put(parent, from, to) {
    this.pieces.put(parent, from, to);
  }

  // A dimmed mark. Screen readers pass over it, because the element around it says the same.
  mark(parent, from, to, className = "mark") {
    const node = document.createElement("span");
    node.className = className;
    node.setAttribute("aria-hidden", "true");
    this.put(node, from, to);
    parent.append(node);
  }

  // The node as an element of `parent`.
  block(parent, node, depth) {
    if (depth > DEEPEST) return this.put(parent, node.from, node.to);
    // Brackets that are no link, as in a[0], are text.
    if (node.name === "LinkMark" && parent.tagName === "SPAN") return this.put(parent, node.from, node.to);
    if (node.name === "QuoteMark") return this.mark(parent, node.from, node.to, "mark quoting");
    if (MARKS.has(node.name)) return this.mark(parent, node.from, node.to);
    if (node.name === "Escape") {
      this.mark(parent, node.from, node.from + 1);
      return this.put(parent, node.from + 1, node.to);
    }
    if (node.name === "FencedCode" || node.name === "CodeBlock") return codeBlock(this, parent, node);
    if (node.name === "Table") return table(this, parent, node, depth);
    if (node.name === "URL") return this.url(parent, node);
    const made = this.element(parent, node);
    if (!made) return this.inside(parent, node, depth);
    parent.append(made);
    if (node.name === "BulletList" || node.name === "OrderedList") this.list(made, node, depth);
    else this.inside(made, node, depth);
  }

  element(parent, node) {
    const heading = /^(?:ATX|Setext)Heading(\d)$/.exec(node.name);
    // The page itself has h1 and h2.
    const tag = heading ? `h${Math.min(6, Number(heading[1]) + 2)}` : TAGS[node.name];
    const links = (node.name === "Link" || node.name === "Image" || node.name === "Autolink") && !parent.closest?.("a");
    const href = links ? this.target(node) : null;
    if (href) return this.link(href);
    if (!tag && !(node.name in CLASSES)) return null;
    const made = document.createElement(tag ?? "div");
    made.className = CLASSES[node.name] ?? "";
    return made;
  }

  // Text and children of a node, in order.
  inside(parent, node, depth) {
    let place = node.from;
    for (const child of children(node)) {
      this.put(parent, place, child.from);
      this.block(parent, child, depth + 1);
      place = child.to;
    }
    this.put(parent, place, node.to);
  }

  // Only items may stand in a list. So what stands between them begins the next one, or ends the last one.
  list(parent, node, depth) {
    const items = children(node);
    const count = items.filter((item) => item.name === "ListItem").length;
    let place = node.from, done = 0, item = null;
    const begin = () => (item ??= parent.appendChild(document.createElement("li")));
    for (const child of items) {
      const space = !this.text.slice(place, child.from).trim();
      this.put(space && !item ? parent : begin(), place, child.from);
      if (child.name === "ListItem") {
        this.inside(begin(), child, depth + 1);
        if (++done < count) item = null;
      } else {
        this.block(begin(), child, depth + 1);
      }
      place = child.to;
    }
    this.put(begin(), place, node.to);
  }

  url(parent, node) {
    const text = this.text.slice(node.from, node.to);
    const linked = parent.closest?.("a");
    const href = linked ? null : address(/^[\w.+-]+@/.test(text) ? `mailto:${text}` : text.replace(/^www\./i, "http://www."));
    const made = href ? this.link(href) : document.createElement("span");
    if (!href && node.parent?.name !== "Autolink") made.className = "mark";
    this.put(made, node.from, node.to);
    parent.append(made);
  }

  link(href) {
    const made = document.createElement("a");
    made.href = href;
    made.target = "_blank";
    made.rel = "noopener noreferrer";
    return made;
  }

  // Where a link leads; null if it is none, or leads to what a page should not open.
  target(node) {
    const url = children(node).find((child) => child.name === "URL");
    if (url) return address(this.text.slice(url.from, url.to));
    const label = this.text.slice(node.from, node.to).match(/\[([^\]]*)\](?:\[\])?$/);
    return label ? this.defined().get(plain(label[1])) ?? null : null;
  }

  // What link references define.
  defined() {
    if (this.definitions) return this.definitions;
    this.definitions = new Map();
    this.tree.iterate({
      enter: ({ name, node }) => {
        if (name !== "LinkReference") return;
        const [label, url] = ["LinkLabel", "URL"].map((kind) => node.getChild(kind));
        const href = label && url ? address(this.text.slice(url.from, url.to)) : null;
        const key = href ? plain(this.text.slice(label.from + 1, label.to - 1)) : "";
        if (href && !this.definitions.has(key)) this.definitions.set(key, href);
      },
    });
    return this.definitions;
  }
}

function plain(label) {
  return label.trim().toLowerCase().replace(/\s+/g, " ");
}

function address(text) {
  const bare = text.replace(/^<|>$/g, "");
  return /^(https?:\/\/|mailto:)/i.test(bare) && URL.canParse(bare) ? bare : null;
}
