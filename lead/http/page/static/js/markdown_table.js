// Tables. Each bar stands at the edge of the cell that it ends; the row of dashes is a dimmed row of its own.

import { children } from "./tree.js";

export function table(source, parent, node, depth) {
  const box = document.createElement("div");
  box.className = "wide";
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "table");
  const made = document.createElement("table");
  const head = document.createElement("thead"), body = document.createElement("tbody");
  made.append(head, body);
  box.append(made);
  const dashes = children(node).find((child) => child.name === "TableDelimiter");
  const sides = dashes ? alignments(source.text.slice(dashes.from, dashes.to)) : [];
  let place = node.from, row = null;
  // What stands between rows, such as the marks of a quote, ends the row before.
  const before = () => row?.lastChild ?? parent;
  for (const child of children(node)) {
    source.put(before(), place, child.from);
    if (child.name === "TableHeader" || child.name === "TableRow") {
      row = cells(source, child, child.name === "TableHeader" ? "th" : "td", sides, depth);
      (child.name === "TableHeader" ? head : body).append(row);
    } else if (child.name === "TableDelimiter") {
      row = dashed(source, child, sides.length);
      head.append(row);
    } else {
      source.block(before(), child, depth + 1);
    }
    place = child.to;
  }
  source.put(before(), place, node.to);
  parent.append(box);
}

function dashed(source, node, count) {
  const row = document.createElement("tr");
  row.className = "dashes";
  row.setAttribute("aria-hidden", "true");
  const cell = document.createElement("td");
  cell.colSpan = Math.max(1, count);
  source.put(cell, node.from, node.to);
  row.append(cell);
  return row;
}

function cells(source, node, tag, sides, depth) {
  const row = document.createElement("tr");
  let cell = null, place = node.from;
  const open = () => {
    if (cell) return cell;
    cell = document.createElement(tag);
    if (tag === "th") cell.scope = "col";
    cell.className = sides[row.children.length] ?? "";
    row.append(cell);
    return cell;
  };
  const all = children(node);
  all.forEach((child, i) => {
    if (place < child.from) source.put(open(), place, child.from);
    if (child.name === "TableDelimiter") {
      source.mark(open(), child.from, child.to);
      if (i > 0) cell = null;  // the first bar of a row opens it
    } else {
      open();
      source.inside(cell, child, depth + 1);
    }
    place = child.to;
  });
  if (place < node.to) source.put(cell ?? row.lastChild ?? open(), place, node.to);
  return row;
}

function alignments(line) {
  return line.replace(/^\s*\|/, "").replace(/\|\s*$/, "").split("|").map((dashes) => {
    const [left, right] = [/^\s*:/.test(dashes), /:\s*$/.test(dashes)];
    return left && right ? "middle" : right ? "right" : "";
  });
}
