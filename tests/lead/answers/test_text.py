"""Text as it comes: never half a character, and nothing lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lead.answers.text import Stops, TextStream, special_in
from tests.support.bytes_vocabulary import ByteVocabulary

# A byte-level vocabulary: the 256 bytes, then tokens of several, some of which begin or end inside a character.
PIECES = [bytes([byte]) for byte in range(256)] + [
    b" the",
    "é".encode(),
    "日本".encode(),
    "日".encode()[:2],
    "日".encode()[2:] + b" ",
    "🙂".encode()[:3],
    "🙂".encode()[3:] + "🙂".encode()[:1],
    "👩‍🚀".encode()[:5],
]


def decode(tokens: Sequence[int]) -> str:
    return b"".join(PIECES[token] for token in tokens).decode("utf-8", errors="replace")


def pieces(tokens: Sequence[int]) -> list[str]:
    stream = TextStream(decode)
    return [*(stream.push(token) for token in tokens), stream.flush()]


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A text, and some way to cut it into tokens."""
    text = draw(st.text(st.one_of(st.sampled_from("日🙂é a👩‍🚀"), st.characters(codec="utf-8")), max_size=20))
    text = text.replace("\ufffd", "?")
    rest, tokens = text.encode(), list[int]()
    while rest:
        fitting = [token for token, piece in enumerate(PIECES) if rest.startswith(piece)]
        tokens.append(draw(st.sampled_from(fitting)))
        rest = rest[len(PIECES[tokens[-1]]) :]
    return text, tokens


@settings(max_examples=150, deadline=None)
@given(tokenised())
def test_pieces_make_the_text_and_break_no_character(said: tuple[str, list[int]]) -> None:
    text, tokens = said
    shown = pieces(tokens)
    assert "".join(shown) == text == decode(tokens)
    assert "\ufffd" not in "".join(shown)
    # Nothing is held back longer than it must: a character shows with its last byte.
    for i in range(len(tokens) + 1):
        whole = decode(tokens[:i])
        if not whole.endswith("\ufffd"):
            assert "".join(shown[:i]) == whole


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=15))
def test_broken_bytes_show_as_the_whole_would(tokens: list[int]) -> None:
    assert "".join(pieces(tokens)) == decode(tokens)


def test_an_answer_cut_inside_a_character_shows_that() -> None:
    first, second = "é".encode()
    assert pieces([65, first]) == ["A", "", "\ufffd"]
    assert pieces([65, first, second]) == ["A", "", "é", ""]


def test_a_model_that_stutters_is_still_shown() -> None:
    shown = pieces([0xFF] * 40)
    assert "".join(shown) == "\ufffd" * 40
    assert max(len(piece) for piece in shown) <= 16, "and not all at the end"


def test_a_token_that_looks_different_after_another_is_shown_as_it_is_there() -> None:
    """SentencePiece vocabularies drop the leading space of what they decode."""
    words = ["▁Hello", "▁world", "!", "▁Again"]

    def sentencepiece(tokens: Sequence[int]) -> str:
        return "".join(words[token] for token in tokens).replace("▁", " ").removeprefix(" ")

    stream = TextStream(sentencepiece)
    assert [stream.push(token) for token in (0, 1, 2, 3)] == ["Hello", " world", "!", " Again"]
    assert stream.flush() == ""
    # Where the text goes on after another one the space is a part of it.
    after = TextStream(sentencepiece, [1] * 9 + [2])
    assert [after.push(token) for token in (3, 0)] == [" Again", " Hello"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=9), st.lists(st.integers(0, len(PIECES) - 1), max_size=9))
def test_a_text_that_goes_on_is_the_rest_of_the_whole(before: list[int], tokens: list[int]) -> None:
    stream = TextStream(decode, before)
    shown = "".join([stream.push(token) for token in tokens]) + stream.flush()
    first = decode(before)
    assert shown == (decode(tokens) if first.endswith("\ufffd") else decode(before + tokens)[len(first) :])


@pytest.mark.parametrize("silent", [0, 2])
def test_tokens_without_text_show_nothing(silent: int) -> None:
    stream = TextStream(lambda tokens: "".join("ab"[t - 1] for t in tokens if t))
    assert [stream.push(t) for t in (1, *[0] * silent, 2, 0)] == ["a", *[""] * silent, "b", ""]


def cut(strings: Sequence[str], pieces: Sequence[str]) -> tuple[list[str], bool]:
    """What is shown of a text that comes in pieces, and whether it was stopped."""
    stops, shown = Stops(strings), list[str]()
    for piece in pieces:
        text, stopped = stops.push(piece)
        shown.append(text)
        if stopped:
            return shown, True
    return [*shown, stops.flush()], False


@pytest.mark.parametrize(
    ("strings", "pieces", "shown", "stopped"),
    [
        ([], ["a", "b"], ["a", "b", ""], False),
        (["END"], ["one E", "N", "D two"], ["one ", "", ""], True),
        (["END"], ["one E", "N", "X"], ["one ", "", "ENX", ""], False),
        (["END"], ["one EN"], ["one ", "EN"], False),
        (["ab", "b"], ["xab"], ["x"], True),
        (["aab"], ["aa", "ab"], ["", "a"], True),
        (["\n\n"], ["a\n", "\nb"], ["a", ""], True),
        (["", "x"], ["ax"], ["a"], True),
    ],
)
def test_stop_strings(strings: list[str], pieces: list[str], shown: list[str], stopped: bool) -> None:
    assert cut(strings, pieces) == (shown, stopped)


def test_the_stop_string_that_came_is_known() -> None:
    stops = Stops(["END", "ab", "x"])
    assert [stops.push(piece)[1] for piece in ("one ", "a", "b x")] == [False, False, True]
    assert stops.found == "ab"
    assert Stops(["x"]).found == ""


@settings(max_examples=300)
@given(st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(st.text("abc", max_size=5), max_size=8))
def test_however_a_text_is_cut_up_it_ends_at_the_first_stop_string(strings: list[str], pieces: list[str]) -> None:
    whole = "".join(pieces)
    shown, stopped = cut(strings, pieces)
    ends = [at for string in strings if (at := whole.find(string)) >= 0]
    assert stopped == bool(ends)
    if not ends:
        assert "".join(shown) == whole
    else:
        # Of two that overlap the one that is complete first counts, wherever the pieces end.
        assert whole.startswith("".join(shown))
        assert not any(string in "".join(shown) for string in strings)


@pytest.mark.parametrize(
    ("stops", "named"),
    [
        (["<|im_end|>"], ["<|im_end|>"]),
        (["<|im_end|>\n", "###"], ["<|im_end|>"]),
        (["</s> [INST]"], ["</s>", "[INST]"]),
        (["a<end_of_turn>b", "<|im_end|>"], ["<end_of_turn>", "<|im_end|>"]),
        (["<|im_end|", "end|>x", "<stop>", ""], []),
    ],
)
def test_special_tokens_that_stop_strings_name(stops: list[str], named: list[str]) -> None:
    """They may stop the answer, though they are no end of the model's. `<stop>` is a token that is text."""
    vocabulary = ByteVocabulary(["<|im_end|>", "</s>", "[INST]", "<end_of_turn>"], texts=["<stop>"])
    marks = special_in(stops, vocabulary)
    assert sorted(marks.values()) == sorted(named) and not vocabulary.eos & marks.keys()
    stream, found = TextStream(vocabulary.decode, marks=marks), Stops(stops)
    pushed = [found.push(stream.push(token)) for token in vocabulary.encode_rendered(f"So. {stops[0]}")]
    assert "".join(text for text, _ in pushed) == "So. "
    assert [stopped for _, stopped in pushed] == [False] * (len(pushed) - 1) + [True]


def test_marks_are_a_part_of_the_text() -> None:
    marks = {300: "<think>", 301: "</think>"}

    def without(tokens: Sequence[int]) -> str:
        return decode([token for token in tokens if token not in marks])

    stream = TextStream(without, marks=marks)
    assert [stream.push(token) for token in (300, 65, 301, 300, 66)] == ["<think>", "A", "</think>", "<think>", "B"]
    # A mark within a character ends it.
    first, second = "é".encode()
    assert [stream.push(token) for token in (first, 301, 67)] == ["", "\ufffd</think>", "C"]
    assert second and stream.flush() == ""
