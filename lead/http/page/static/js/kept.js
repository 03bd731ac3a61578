// Words that this tab or this browser keeps. Where a browser lets pages keep nothing, they live as long as the page.

function keeper(name) {
  let storage = null;
  try {
    storage = window[name];
  } catch {
    // Such a browser throws as soon as it is asked.
  }
  const memory = new Map();
  return {
    get: (key) => (storage ? storage.getItem(key) : memory.get(key) ?? null),
    set: (key, value) => (storage ? storage.setItem(key, value) : memory.set(key, value)),
    forget: (key) => (storage ? storage.removeItem(key) : memory.delete(key)),
  };
}

export const tab = keeper("sessionStorage");
export const browser = keeper("localStorage");
