// Short ways to make and find nodes. All text of the lead or of a model goes into text nodes.

export const $ = (id) => document.getElementById(id);

// An element with properties, attributes (those with a dash, and role) and children. Children that are null are left out.
export function element(tag, given = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// A button that does something. `label`: what a screen reader says, where the text alone says too little.
export function button(text, act, label = "") {
  const node = element("button", { type: "button", textContent: text });
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", act);
  return node;
}

export function status(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

// Puts a text on the clipboard, and says so.
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
  } else {
    // Browsers give pages that came over plain HTTP no clipboard. This older way is left to them.
    const before = document.activeElement;
    const field = element("textarea", { value: text, className: "unseen" });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    before?.focus();
  }
  status("copied");
}
