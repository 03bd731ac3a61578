"""Values as models write them in calls: JSON, Python's literals, and Gemma's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lead.chat.forms.source import NoCall, Reading, Source

MAX_DEPTH = 100
"""Lists and objects in each other. Deeper ones are no call."""

_SPACES = re.compile(r"[ \t\r\n]*+")
_WORD = re.compile(r"[A-Za-z]*+")
_NUMBER = re.compile(r"[-+0-9.eE]*+")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_BARE_KEY = re.compile(r"[^:{}\[\],\"<]*+")
_KEYWORD = re.compile(r"[^\W\d][\w-]*+")
_IN_KEYWORD = re.compile(r"[\w-]*+")
_JSON_WORDS = {"true": True, "false": False, "null": None}
_PYTHON_WORDS = {**_JSON_WORDS, "True": True, "False": False, "None": None}
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_KEPT = "\\\"'"


@dataclass(frozen=True)
class Dialect:
    """How values are written.

    quotes: what is around a string. escapes: strings have escapes after a backslash, and `raw`, also line breaks as
    they are. bare_keys: keys of objects need no quotes. triple: three
    quotes may be around a string, too.
    """

    words: dict[str, bool | None]
    quotes: Sequence[str] = ('"',)
    escapes: bool = True
    raw: bool = False
    bare_keys: bool = False
    triple: bool = False


JSON = Dialect(_JSON_WORDS)
PYTHON = Dialect(_PYTHON_WORDS, ('"', "'"), raw=True, triple=True)
GEMMA = Dialect(_PYTHON_WORDS, ('<|"|>', "<escape>", '"'), raw=True, bare_keys=True)


def value(source: Source, dialect: Dialect, depth: int = 0) -> Reading[Any]:
    """Reads a value, whose first letter is next. Raises NoCall if none stands here, and Ended."""
    letter = yield from source.more()
    if depth > MAX_DEPTH:
        raise NoCall
    if letter == "{":
        return (yield from _object(source, dialect, depth))
    if letter == "[" or (letter == "(" and dialect is PYTHON):
        return (yield from _list(source, dialect, depth))
    if any(quote.startswith(letter) for quote in dialect.quotes):
        return (yield from string(source, dialect))
    if letter.isalpha():
        word = yield from source.run(_WORD)
        if any(each.startswith(word) for each in dialect.words):
            yield from source.more()  # it may be cut
        if word not in dialect.words:
            raise NoCall
        return dialect.words[word]
    return (yield from _number(source, dialect))


def string(source: Source, dialect: Dialect) -> Reading[str]:
    """Reads a string in its quotes."""
    here, quote = yield from source.one_of(dialect.quotes)
    if not here:
        raise NoCall
    pieces: list[str] = []
    if len(quote) > 1:
        yield from source.until(quote, pieces)
        return whole("".join(pieces))
    if dialect.triple and (yield from source.peek()) == quote:
        source.skip()
        if (yield from source.peek()) != quote:
            return ""
        source.skip()
        return (yield from _triple(source, dialect, quote))
    stop = quote if dialect.raw else quote + r"\x00-\x1f"
    plain = re.compile(rf"[^\\{stop}]*+")
    while True:
        yield from source.long_run(plain, pieces)
        letter = yield from source.take()
        if letter == quote:
            return _unescaped("".join(pieces), dialect)
        if letter != "\\":
            raise NoCall  # a control character
        pieces.append(letter + (yield from source.take()))


def _triple(source: Source, dialect: Dialect, quote: str) -> Reading[str]:
    """Reads a string after its three quotes, and the three that end it."""
    pieces: list[str] = []
    plain = re.compile(rf"[^\\{quote}]*+")
    while True:
        yield from source.long_run(plain, pieces)
        if (letter := (yield from source.take())) == "\\":
            pieces.append(letter + (yield from source.take()))
            continue
        quotes = 1
        while quotes < 3 and (yield from source.more()) == quote:
            source.skip()
            quotes += 1
        if quotes == 3:
            return _unescaped("".join(pieces), dialect)
        pieces.append(quote * quotes)


def dumped(text: str) -> str:
    """The text as a string that each dialect reads."""
    return json.dumps(text, ensure_ascii=False)


def whole(text: str) -> str:
    """The text as Unicode: pairs of surrogates become letters, and single ones U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def spaces(source: Source) -> Reading[str]:
    """Reads the white space that JSON knows."""
    return source.run(_SPACES)


def _unescaped(text: str, dialect: Dialect) -> str:
    if "\\" not in text:
        return whole(text)
    if not dialect.raw:
        try:
            return whole(str(json.loads(f'"{text}"')))
        except ValueError:
            raise NoCall from None

    def meant(found: re.Match[str]) -> str:
        four, eight, two, letter = found.groups()
        if letter is None:
            code = int(four or eight or two, 16)
            return chr(code) if code < 0x110000 else found[0]
        return _LETTERS.get(letter, letter if letter in _KEPT else found[0])

    return whole(_ESCAPED.sub(meant, text))


def pairs(
    source: Source,
    dialect: Dialect,
    end: str,
    key: Callable[[], Reading[str | None]],
    found: dict[str, Any],
    depth: int = 0,
) -> Reading[None]:
    """Reads keys with their values, and the `end` after them. `key` reads a key and what divides it from its value. It
    returns None if it has put the values into `found` itself.

    They are put into `found` one by one, so those before a cut are known.
    """
    yield from spaces(source)
    while (yield from source.peek()) != end:
        name = yield from key()
        yield from spaces(source)
        if name is not None:
            found[name] = yield from value(source, dialect, depth)
        yield from spaces(source)
        if not (yield from _goes_on(source, end, dialect)):
            break
    yield from source.expect(end)


def members(source: Source, dialect: Dialect, found: dict[str, Any], depth: int = 0) -> Reading[None]:
    """Reads an object, of which the brace is next, into `found`."""
    yield from source.expect("{")
    yield from pairs(source, dialect, "}", lambda: _key(source, dialect), found, depth)


def _object(source: Source, dialect: Dialect, depth: int) -> Reading[dict[str, Any]]:
    found: dict[str, Any] = {}
    yield from members(source, dialect, found, depth + 1)
    return found


def _key(source: Source, dialect: Dialect) -> Reading[str]:
    letter = yield from source.more()
    if dialect.bare_keys and not any(quote.startswith(letter) for quote in dialect.quotes):
        key = yield from bare_key(source)
    else:
        key = yield from string(source, dialect)
    yield from spaces(source)
    yield from source.expect(":")
    return key


def bare_key(source: Source) -> Reading[str]:
    """Reads a key without quotes."""
    key = (yield from source.run(_BARE_KEY)).strip()
    if not key:
        yield from source.more()
        raise NoCall
    return key


def is_bare_key(key: str) -> bool:
    """Whether `bare_key` reads this key."""
    return bool(key.strip()) and key == key.strip() and _BARE_KEY.fullmatch(key) is not None


def keyword(source: Source) -> Reading[str]:
    """Reads the keyword of an argument; empty if none stands here. Some tools have dashes in theirs."""
    letter = yield from source.peek()
    return (yield from source.run(_IN_KEYWORD)) if is_keyword(letter) else ""


def is_keyword(key: str) -> bool:
    """Whether `keyword` reads this key."""
    return _KEYWORD.fullmatch(key) is not None


def _list(source: Source, dialect: Dialect, depth: int) -> Reading[list[Any]]:
    found: list[Any] = []
    end = "]" if (yield from source.take()) == "[" else ")"
    yield from spaces(source)
    while (yield from source.peek()) != end:
        found.append((yield from value(source, dialect, depth + 1)))
        yield from spaces(source)
        if not (yield from _goes_on(source, end, dialect)):
            break
    yield from source.expect(end)
    return found


def _goes_on(source: Source, end: str, dialect: Dialect) -> Reading[bool]:
    """Reads the comma after a member. Returns whether one stands there."""
    if (yield from source.peek()) != ",":
        return False
    source.skip()
    yield from spaces(source)
    if (yield from source.peek()) == end and dialect.words is _JSON_WORDS:
        raise NoCall  # JSON knows no comma at the end
    return True


def _number(source: Source, dialect: Dialect) -> Reading[int | float]:
    written = yield from source.run(_NUMBER)
    yield from source.more()  # it may go on
    if dialect.words is not _JSON_WORDS:
        written = written.removeprefix("+")
        written = f"{written}0" if written.endswith(".") else written
        written = re.sub(r"^(-?)\.", r"\g<1>0.", written)
    if not _JSON_NUMBER.fullmatch(written):
        raise NoCall
    try:
        number: int | float = json.loads(written)
    except ValueError:  # thousands of digits
        raise NoCall from None
    if number in (float("inf"), float("-inf")):
        raise NoCall
    return number
