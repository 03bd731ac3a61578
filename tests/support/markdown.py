"""Random answers: Markdown, HTML, code, any Unicode, control characters."""

from __future__ import annotations

from hypothesis import strategies as st

MARKS = (
    *(
        "*",
        "**",
        "_",
        "__",
        "~~",
        "`",
        "``",
        "```",
        "~~~",
        "#",
        "##",
        ">",
        "> ",
        "- ",
        "+ ",
        "1. ",
        "10) ",
        "[ ] ",
        "[x] ",
    ),
    *(
        "[",
        "]",
        "(",
        ")",
        "![",
        "](",
        "<",
        ">",
        "|",
        "|---|:-:|",
        "---",
        "===",
        "***",
        "\\",
        "&",
        "&amp;",
        "&#35;",
        ":",
    ),
    *("\n", "\n\n", "  \n", "    ", "\t", "\r\n", "\r", '"', "'", "$", "```python\n", "<!--", "-->", "<?", "?>"),
    *("<![CDATA[", "www.", "https://a.b/c_d", "a@b.cd", "[r]: /x", "[r]"),
    *("\x00", "\x1b[31m", "\x7f", "\u00ad", "\u200b", "\u202e", "\ufeff", "\ufffd"),
)
WORDS = (
    *("a", "word", "C++", "#include <vector>", "if a<b and c>d", "<think>", "</think>", "<b>x</b>", "x_y_z", "1.5"),
    *("é", "漢字", "👩\u200d🚀", "שלום"),
)
WHOLE = (
    "| a | b |\n|---|--:|\n| 1 | `x|y` |\n| |\n",
    "> q\n> - a\n> - b\n>\n> | a | b |\n> |---|---|\n> | 1 |\n",
    "1. a\n   - b\n\n     c\n2. d\n   ```c\n   int x;\n   ```\n",
    "> ```js\n> let x = '<a>';\n> ```\n",
    '[a *b*](http://x.y "t") ![i](u) <http://z> [r][] [r]\n\n[r]: http://w\n',
    "Title\n===\n\n# T #\n\n<div>\n *x*\n</div>\n\n<!-- c -->\n",
    "- [ ] todo\n- [x] done\n\n* * *\n    indented\n",
)

answers = st.lists(
    st.one_of(st.sampled_from(MARKS), st.sampled_from(WORDS), st.sampled_from(WHOLE), st.text(max_size=8)), max_size=30
).map("".join)


def printable(text: str) -> str:
    """What a person must find again: all that is neither space nor a control character."""
    return "".join(one for one in text if one.isprintable() and not one.isspace())
