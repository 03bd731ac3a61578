"""Reads an answer in which marks begin calls and thinking, and all else is text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lead.chat.forms import bare, names, sections
from lead.chat.forms.form import Form
from lead.chat.forms.found import Found, Reader
from lead.chat.forms.source import MAX_AGAIN, CutCall, Ended, NoCall, Reading, Source

_QUOTES = tuple(fence[0] for fence in bare.FENCES)
_FENCE = len(bare.FENCES[0])


class _Lines:
    """Where in its lines a text ends."""

    def __init__(self) -> None:
        self.begins = True
        """Whether only white space stands in the last line."""
        self.fence = ""
        """What the fence consists of that the last line is in. What looks like a call there is an example."""
        self._quote = ""
        """The first letter of the line."""
        self._quotes = 0
        """How often it stands there, if it may begin a fence; -1 once something else stands there."""

    def add(self, text: str) -> None:
        for i, line in enumerate(text.split("\n")):
            if i:
                self.begins, self._quotes = True, 0
            if self._quotes < 0 or not (rest := line if self._quotes else line.lstrip()):
                continue
            self._quote = self._quote if self._quotes else rest[0]
            others = rest.lstrip(self._quote) if self._quote in _QUOTES else rest
            before, self._quotes = self._quotes, self._quotes + len(rest) - len(others)
            if before < _FENCE <= self._quotes and self.fence in ("", self._quote):
                self.fence = "" if self.fence else self._quote
            self.begins = False
            if others:
                self._quotes = -1


class Marked:
    """Reads one answer.

    thinking: the answer begins within thinking. keep: thinking stays in the text, with its marks.
    """

    def __init__(self, form: Form, source: Source, found: Found, thinking: bool, keep: bool) -> None:
        self._form, self._source, self._found = form, source, found
        self._thinking, self._keep = thinking, keep
        self._blocks: Mapping[str, Reader] = form.blocks if found.tools else {}
        self._line, self._fence = bare.line(form.python), bare.fence(form.python)
        self._begun = False
        """Whether anything but white space came."""
        self._fresh = True
        """Whether nothing but white space came since the beginning, a mark of thinking, or a call."""
        self._drop = thinking
        """Whether that white space belongs to nothing even if text follows."""
        self._lines = _Lines()
        self._quoted = False
        """Whether a backquote is right before. Then a mark of thinking is spoken of, and not used."""
        self._again = MAX_AGAIN
        letters = {mark[0] for mark in (*self._blocks, *form.around, *form.thinking)}
        letters |= {"{", "[", *_QUOTES} if found.tools else set()
        stop = re.escape("".join(sorted(letters)))
        self._run = re.compile(f"[^{stop}]*+")
        self._run_of_thinking = re.compile(rf"(?:[^{stop}]*[^{stop}\s])?")
        """The white space at its end may stand before the mark that ends thinking."""

    @property
    def plain(self) -> bool:
        """Whether all that follows is text."""
        return self._begun and not (self._found.tools or self._form.declared or self._form.around or self._thinking)

    def read(self) -> Reading[None]:
        """Reads the answer to its end."""
        source = self._source
        while True:
            if self._fresh or (self._thinking and not self._keep):
                yield from source.spaces()
            letter = yield from source.peek()
            if not letter:
                self._end()
                return
            if marks := self._marks(letter):
                place = source.place
                try:
                    here, mark = yield from source.one_of(marks)
                except Ended:
                    if self._found.must_call:
                        source.settle()
                        continue
                    here, mark = False, ""
                if here:
                    if (reader := marks[mark]) is None:
                        self._turn(mark)
                    else:
                        yield from self._attempt(reader, place)
                    continue
                source.rewind(place)
            if reader := self._bare(letter):
                yield from self._attempt(reader, source.place, marked=False)
            else:
                self._text()

    def _marks(self, letter: str) -> dict[str, Reader | None]:
        """The marks that may stand here, with their readers. Those of thinking and text have none."""
        marks: dict[str, Reader | None] = {mark: reader for mark, reader in self._blocks.items() if mark[0] == letter}
        open, close = self._form.thinking
        if self._thinking:
            thinking = [close]
        elif self._quoted or (self._begun and not self._form.declared):
            thinking = []
        else:
            # The prompt may have begun thinking in a way that nobody saw.
            thinking = [open, close] if self._fresh else [open]
        around = () if self._thinking or self._quoted else self._form.around
        return marks | {mark: None for mark in (*thinking, *around) if mark[0] == letter}

    def _bare(self, letter: str) -> Reader | None:
        """What reads a call that may stand here without a mark."""
        if self._thinking or not self._found.tools or not self._lines.begins or self._lines.fence:
            return None
        if letter in "{[":
            return self._line
        if letter in _QUOTES:
            return self._fence
        return sections.bare if self._form.names and not self._begun else None

    def _turn(self, mark: str) -> None:
        """Thinking or text begins or ends."""
        around = mark in self._form.around
        if self._keep and not around:
            self._found.text(self._source.kept)
        self._source.settle()
        self._thinking = mark == self._form.thinking.open
        self._begun = self._fresh = True
        self._lines = _Lines()
        self._drop = around or not self._keep

    def _attempt(self, reader: Reader, place: int, marked: bool = True) -> Reading[None]:
        """Reads calls, or text if they are none. `place`: where the mark begins, after white space."""
        source, found, settled = self._source, self._found, self._source.settled
        self._begun = True
        try:
            yield from reader(source, found)
            names.certain(source, found)
            self._after_call()
            return
        except (CutCall, Ended) as end:
            cut = end if isinstance(end, CutCall) else CutCall()
            # Without a mark, only the name tells a call from other text.
            if found.cut_counts and (cut.name or marked or found.must_call):
                found.cut_call(cut.name, cut.arguments)
                source.settle()
                self._after_call()
                return
        except NoCall:
            pass
        begun = source.settled != settled
        self._fail(0 if begun else place, begun)

    def _fail(self, place: int, begun: bool) -> None:
        """What was read after this place is no call. Its first letter is text, and the others are read again.

        begun: calls before it were certain.
        """
        source = self._source
        self._found.drop()
        self._again -= source.place - place
        if self._again < 0:
            self._say(source.kept)
            return
        source.rewind(place)
        if begun:
            self._after_call()
        else:
            self._text()

    def _after_call(self) -> None:
        self._fresh = True
        self._lines = _Lines()
        self._drop = self._thinking

    def _text(self) -> None:
        """Reads some text, at least a letter."""
        source = self._source
        if not source.now(self._run_of_thinking if self._thinking and not self._keep else self._run):
            source.skip()
        self._say(source.kept)

    def _say(self, text: str) -> None:
        """This was read, and is text or thinking."""
        self._source.settle()
        if self._fresh and self._drop:
            text = text.lstrip()
        (self._found.thought if self._thinking and not self._keep else self._found.text)(text)
        if self._found.tools:
            self._lines.add(text)
        self._quoted = text.endswith("`")
        if text.strip():
            self._begun, self._fresh, self._drop = True, False, False

    def _end(self) -> None:
        """The answer has ended."""
        found, kept = self._found, self._source.kept
        self._source.settle()
        if self._keep or not (self._thinking or self._drop or found.calls or found.must_call):
            found.text(kept)
        found.cut |= found.must_call and not found.calls
