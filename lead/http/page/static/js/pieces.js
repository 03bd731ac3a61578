// A text that came in pieces, as text nodes that keep who guessed what.

// pieces: [[text, back or ""], ...]
export class Pieces {
  constructor(pieces) {
    this.pieces = pieces;
    this.text = pieces.map(([part]) => part).join("");
    this.starts = [];  // where each piece begins
    let length = 0;
    for (const [part] of pieces) {
      this.starts.push(length);
      length += part.length;
    }
  }

  // Appends the characters from..to of the text. Spans of class `guessed` hold what a back guessed.
  put(parent, from, to) {
    for (let i = this.#at(from); from < to && i < this.pieces.length; i++) {
      const end = Math.min(to, this.starts[i] + this.pieces[i][0].length);
      if (end <= from) continue;
      const node = document.createTextNode(this.text.slice(from, end));
      // Space has no colour. An element would give it room between blocks.
      const back = node.data.trim() ? this.pieces[i][1] : "";
      if (back) {
        const span = document.createElement("span");
        span.className = "guessed";
        span.title = `guessed by ${back}`;
        span.append(node);
        parent.append(span);
      } else {
        parent.append(node);
      }
      from = end;
    }
  }

  // The last piece that begins at a place or before it.
  #at(place) {
    let low = 0, high = this.starts.length;
    while (low + 1 < high) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] <= place) low = middle; else high = middle;
    }
    return low;
  }
}
