// The question for an API key.

import { $ } from "./dom.js";
import { onRefused, useKey } from "./lead.js";

// `given` is called when there is a new key.
export function start(given) {
  onRefused((wrong) => {
    if ($("key-form").hidden) {
      $("key-form").hidden = false;
      $("key").focus();
    }
    // Polls continue without a key, and must not remove the line.
    if (wrong) $("key-error").textContent = "The lead does not take this key.";
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("key").value.trim();
    // A header cannot hold anything else. Sending it would look like a lost connection.
    if (!/^[\x21-\x7e]+$/.test(key)) {
      $("key-error").textContent = "A key has only letters, digits and signs of ASCII, and no spaces.";
      return;
    }
    useKey(key);
    $("key").value = "";
    $("key-error").textContent = "";
    $("key-form").hidden = true;
    $("question").focus();
    given();
  });
}
