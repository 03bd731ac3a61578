// The list of conversations. Each is a link, so the browser's own keys and history work.

import { $, button, element } from "./dom.js";
import * as store from "./store.js";

// Shows the list. `current`: the id of the conversation that is open. `gone` is called with the id of a deleted one.
export async function show(current, gone) {
  const all = await store.list();
  $("conversations").replaceChildren(...all.map(({ id, title, changed }) => {
    const link = element("a", { href: `#${id}`, textContent: title, title: new Date(changed).toLocaleString() });
    if (id === current) link.setAttribute("aria-current", "page");
    const forget = button("×", async () => {
      if (!confirm(`Delete "${title}"?`)) return;
      await store.forget(id);
      gone(id);
    }, `delete ${title}`);
    return element("li", {}, link, forget);
  }));
}
