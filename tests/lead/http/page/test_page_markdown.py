"""How answers are shown: every character of them, in order, and what Markdown means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selenium.webdriver import Chrome

from bench.harness.scripted_lead import ScriptedLead, serving
from tests.support.markdown import answers, printable
from tests.support.page import Page

pytestmark = pytest.mark.slow  # a browser

SHOW = """
const { show } = await import("/static/js/markdown.js");
const box = document.querySelector("#proof") ?? document.createElement("div");
box.id = "proof";
box.className = "words";
const article = document.createElement("article");
article.append(box);
document.getElementById("messages").append(article);
box.blocks = undefined;
box.replaceChildren();
for (const growing of given[1]) show(box, growing, false);
show(box, given[0]);
const unseen = [];
const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
for (const range = new Range(); walker.nextNode();) {
  range.selectNodeContents(walker.currentNode);
  if (/[^\\s\\p{C}]/u.test(range.toString()) && !range.getClientRects().length) unseen.push(range.toString());
}
return { text: box.textContent, seen: box.innerText, unseen, html: box.innerHTML };
"""

Pieces = Sequence[tuple[str, str]]


def shown(page: Page, pieces: Pieces, growing: Sequence[Pieces] = ()) -> Any:
    """An answer on the page: its text in the document, and what of it is seen. `growing`: what was shown before."""
    return page.module(SHOW, [list(piece) for piece in pieces], [[list(piece) for piece in some] for some in growing])


def html(page: Page, text: str) -> str:
    return str(shown(page, [(text, "")])["html"])


@st.composite
def in_pieces(draw: st.DrawFn) -> list[tuple[str, str]]:
    """An answer in a few pieces, some of them guessed."""
    text = draw(answers)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)))
    ends = zip([0, *cuts], [*cuts, len(text)], strict=True)
    return [(text[start:end], draw(st.sampled_from(["", "attic"]))) for start, end in ends]


def check(page: Page, pieces: list[tuple[str, str]]) -> None:
    growing = [pieces[:count] for count in range(1, len(pieces))]
    text = "".join(piece for piece, _ in pieces)
    found = shown(page, pieces, growing)
    assert found["text"] == text
    assert printable(found["seen"]) == printable(text)
    assert found["unseen"] == []


@pytest.fixture(scope="module")
def static(chrome: Chrome) -> Any:
    """One page for many examples. Nothing is asked of its lead."""
    with serving(ScriptedLead()) as url:
        page = Page(chrome)
        page.open(url)
        page.ready()
        yield page


@settings(max_examples=40)
@given(pieces=in_pieces())
def test_every_character_is_seen(static: Page, pieces: list[tuple[str, str]]) -> None:
    check(static, pieces)


@settings(max_examples=1500)
@given(pieces=in_pieces())
def test_every_character_of_many_answers_is_seen(static: Page, pieces: list[tuple[str, str]]) -> None:
    check(static, pieces)


def test_what_markdown_means(static: Page) -> None:
    for text, tags in (
        ("# T", ["h3"]),
        ("T\n===", ["h3"]),
        ("a **b** *c* ~~d~~ `e`", ["p", "strong", "em", "del", "code"]),
        ("1. a\n   - b\n2. c", ["ol", "li", "p", "ul", "li", "p", "li", "p"]),
        ("> a", ["blockquote", "p"]),
        ("|a|b|\n|-|-|\n|1|2|", ["table", "thead", "tr", "th", "th", "tr", "td", "tbody", "tr", "td", "td"]),
        ("a[0] <b>c</b>", ["p"]),
    ):
        html(static, text)
        script = "return [...document.querySelectorAll('#proof *')].map((node) => node.tagName.toLowerCase())"
        assert [tag for tag in static.script(script) if tag not in ("span", "div")] == tags, text


def test_links_lead_where_they_say(static: Page) -> None:
    text = (
        '[a](http://x.y/z "t") <https://b.c> https://d.e [r] [f](javascript:alert(1)) ![g](data:x)\n\n[r]: http://h.i'
    )
    html(static, text)
    script = "return [...document.querySelectorAll('#proof a')].map((a) => [a.href, a.target, a.rel])"
    found = static.script(script)
    safe = ["_blank", "noopener noreferrer"]
    addresses = ["http://x.y/z", "https://b.c/", "https://d.e/", "http://h.i/", "http://h.i/"]
    assert found == [[address, *safe] for address in addresses]


def test_code_is_highlighted(static: Page) -> None:
    html(static, "```python\ndef f():  # why\n    return 'x'\n```")
    script = (
        "return [...document.querySelectorAll('#proof pre span')].map((node) => [node.classList[0], node.textContent])"
    )
    assert static.script(script) == [
        ["hljs-keyword", "def"],
        ["hljs-title", "f"],
        ["hljs-comment", "# why"],
        ["hljs-keyword", "return"],
        ["hljs-string", "'x'"],
    ]
    html(static, "```no-such-language\ndef f()\n```")
    assert static.script(script) == []


def test_an_answer_that_grows_keeps_its_first_blocks(static: Page) -> None:
    """Else a long answer would be drawn again for each word, and what was selected would be lost."""
    kept = static.module(
        """
        const { show } = await import("/static/js/markdown.js");
        const box = document.createElement("div");
        show(box, [["one\\n\\ntwo", ""]], false);
        const first = box.firstChild;
        show(box, [["one\\n\\ntwo and more\\n\\nthree", ""]], false);
        return [box.firstChild === first, box.textContent];
        """
    )
    assert kept == [True, "one\n\ntwo and more\n\nthree"]


@pytest.mark.parametrize("mark", [">", "*a ", "[", "- ", "`", "**a", "<b>", "|", "(", "![["])
def test_marks_without_end_take_no_time(static: Page, mark: str) -> None:
    """A model may repeat one mark for ever. The page shows it, and the tab lives on."""
    text = mark * 3000
    assert shown(static, [(text, "")])["text"] == text


def test_nothing_is_lost_between_lead_and_eye(scene: Page, scripted: ScriptedLead) -> None:
    """The same through the lead's stream, with guesses, in answers of one conversation."""
    texts = [
        "a<b and c>d\n\n#include <vector>\n",
        "<think>\n\n| a |\n|---|\n| `<x>` |\n",
        "> [l](u)\n> ```html\n> <p>\n",
    ]
    for count, text in enumerate(texts, 1):
        parts = [text[i : i + 3] for i in range(0, len(text), 3)]
        guessed = [[[part, "attic" if i % 2 else ""]] for i, part in enumerate(parts)]
        scripted.scripts = [[{"content": c, "accepted": a} for c, a in zip(parts, guessed, strict=True)]]
        scene.ask("go on")
        scene.answered(count)
    assert scene.answers() == texts
    for node, text in zip(scene.all("article.assistant .words"), texts, strict=True):
        assert printable(str(node.get_property("innerText"))) == printable(text)
