"""README and docs are written in short sentences, for people whose first language is not English."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

MAX_WORDS = 30
"""Of a sentence."""
MEAN_WORDS = 17
"""Of all sentences together."""
README_LINES = 90

SINS: set[str] = set()
"""Pages with longer sentences; `mean` and `lines` for the two rules below. May only shrink."""

ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|etc|vs|cf|et al)\.")
CODE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)


def paragraphs(markdown: str) -> Iterator[str]:
    """The prose: no code, tables, headings, pictures or comments. An item of a list is a paragraph."""
    text = re.sub(r"<!--.*?-->", "", CODE.sub("\n\n", markdown), flags=re.DOTALL)
    lines: list[str] = []
    indented_code = False
    in_list = False
    for line in [*text.splitlines(), ""]:
        item = re.match(r"\s*([-*+]|\d+\.)\s+", line)
        in_list = bool(item) or (in_list and line[:1] in ("", " "))
        if not lines and line.startswith("    ") and not in_list:
            indented_code = True
        if indented_code and not line.startswith("    ") and line.strip():
            indented_code = False
        apart = indented_code or not line.strip() or item or line.lstrip().startswith(("#", "|", "<"))
        apart = apart or re.match(r"\[[^\]]+\]: ", line) is not None  # where a link leads
        if apart and lines:
            yield " ".join(lines)
            lines = []
        if item:
            lines = [line[item.end() :].strip()]
        elif not apart:
            lines.append(line.strip())


def sentences(markdown: str) -> Iterator[str]:
    for paragraph in paragraphs(markdown):
        text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", paragraph)
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
        text = re.sub(r"<?https?://\S+", "address", re.sub(r"`[^`]*`", "code", text))
        text = ABBREVIATIONS.sub(r"\1", text)
        yield from (one for one in re.split(r"(?<=[.!?])[)\"*]*\s+", text) if words(one))


def words(sentence: str) -> int:
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_sentence_is_long(page: Path) -> None:
    long = [one for one in sentences(page.read_text("utf-8")) if words(one) > MAX_WORDS]
    if page.name in SINS:
        assert long, "no longer a sin: take it out of the list"
    else:
        assert not long


def test_sentences_are_short_on_average() -> None:
    average = mean(words(one) for page in PAGES for one in sentences(page.read_text("utf-8")))
    assert (average >= MEAN_WORDS) == ("mean" in SINS), f"{average:.1f} words"


def test_the_readme_is_short() -> None:
    lines = len((ROOT / "README.md").read_text("utf-8").splitlines())
    assert (lines > README_LINES) == ("lines" in SINS), f"{lines} lines"


def test_what_counts_as_a_sentence() -> None:
    page = """# A heading of many words that are no sentence

One *two* three: [four](http://a.b/c_d). Five, e.g. `six seven` eight
nine!

| a | table |

    code is. not. prose

- an item
  goes on

  of a list
- 1.5 llama.cpp

```
code
```
Last (with `--a b`).
"""
    assert [words(one) for one in sentences(page)] == [4, 5, 4, 3, 2, 3]
