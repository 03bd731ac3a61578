"""Prompts for code in the middle, in every form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duo.engines.transformers.vocabulary import HFVocabulary
from lead.answers.fim import FORMS, Form, Gap, cut, form_of, plain_tokens, prompt_of
from tests.support.fim import CODELLAMA, QWEN, spaced_with_marks, with_marks

DEEPSEEK = ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>")


def form(vocabulary: HFVocabulary) -> Form:
    found = form_of(vocabulary)
    assert found is not None
    return found


def written(prompt: Sequence[int], vocabulary: HFVocabulary) -> str:
    """A prompt with the names of its special tokens."""
    return b"".join(vocabulary.token_bytes(token) or vocabulary.meanings[token] for token in prompt).decode()


def asked(vocabulary: HFVocabulary, before: str, after: str, extra: Sequence[tuple[str, str]] = ()) -> list[int]:
    known = form(vocabulary)
    gap = Gap(plain_tokens(before, vocabulary, known, spaced=True), plain_tokens(after, vocabulary, known), extra)
    return prompt_of(known, gap, vocabulary, 4096, None)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        (QWEN, "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>"),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "<fim_prefix>ab<fim_suffix>cd<fim_middle>"),
        (("<fim-prefix>", "<fim-suffix>", "<fim-middle>"), "<fim-prefix>ab<fim-suffix>cd<fim-middle>"),
        (DEEPSEEK, "{}ab{}cd{}".format(*DEEPSEEK)),
        (("[PREFIX]", "[SUFFIX]", "[MIDDLE]"), "[SUFFIX]cd[PREFIX]ab"),
        (("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"), "<[fim-suffix]>cd<[fim-prefix]>ab<[fim-middle]>"),
        (
            ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
            "<|code_prefix|>ab<|code_suffix|>cd<|code_middle|>",
        ),
    ],
)
def test_forms_follow_from_names(marks: Sequence[str], expected: str, special: bool) -> None:
    vocabulary = with_marks(marks, special)
    assert written(asked(vocabulary, "ab", "cd"), vocabulary) == expected


def test_bos_comes_first() -> None:
    vocabulary = with_marks(QWEN, bos=True)
    assert written(asked(vocabulary, "ab", ""), vocabulary) == "<s><|fim_prefix|>ab<|fim_suffix|><|fim_middle|>"


def test_only_the_first_text_begins_with_the_space_of_the_tokenizer() -> None:
    vocabulary = spaced_with_marks(CODELLAMA)
    assert written(asked(vocabulary, "ab", "cd"), vocabulary) == "<s>\u2581<PRE> ab\u2581<SUF>cd\u2581<MID>"
    assert {vocabulary.meanings[token].decode() for token in form(vocabulary).stops} == set(CODELLAMA)


def test_no_form_without_all_marks() -> None:
    assert form_of(with_marks(())) is None
    assert form_of(with_marks(QWEN[:2])) is None
    assert form_of(with_marks(("[PREFIX]",))) is None


def test_a_file_may_say_which_tokens_they_are() -> None:
    class Named(HFVocabulary):
        @property
        def fim_tokens(self) -> Mapping[str, int]:
            return {"prefix": 5, "suffix": 6, "middle": 7, "pad": 8}

    plain = with_marks(())
    vocabulary = Named(plain._tokenizer, plain.size, plain.eos)  # noqa: SLF001
    found = form(vocabulary)
    assert (found.prefix, found.suffix, found.middle, found.ends) == (5, 6, 7, frozenset([8]))


def test_answers_end_at_every_mark() -> None:
    vocabulary = with_marks(QWEN)
    assert {vocabulary.meanings[token].decode() for token in form(vocabulary).stops} == set(QWEN)


@pytest.mark.parametrize("special", [True, False])
def test_names_of_marks_in_a_file_are_text(special: bool) -> None:
    vocabulary = with_marks(QWEN, special)
    text = "a <|fim_middle|><|fim_middle|> </s>b <|file_sep|>"
    tokens = plain_tokens(text, vocabulary, form(vocabulary))
    assert vocabulary.decode(tokens) == text
    marks = {*form(vocabulary).stops, *vocabulary.eos}
    assert not marks & set(tokens)


def test_other_files_come_before_the_gap() -> None:
    vocabulary = with_marks(QWEN)
    prompt = asked(vocabulary, "ab", "cd", [("x.py", "one"), ("y.py", "two")])
    assert written(prompt, vocabulary) == (
        "<|repo_name|>repository\n<|file_sep|>x.py\none<|file_sep|>y.py\ntwo<|file_sep|>\n"
        "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>"
    )
    vocabulary = with_marks(("[PREFIX]", "[SUFFIX]"))
    prompt = asked(vocabulary, "ab", "cd", [("x.py", "one")])
    assert written(prompt, vocabulary) == "+++++ x.py\none\n[SUFFIX]cd[PREFIX]ab"


def test_what_does_not_fit_is_left_out() -> None:
    vocabulary = with_marks(QWEN)
    known = form(vocabulary)
    letters = plain_tokens("0123456789" * 20, vocabulary, known)
    files = [("x", "1" * 30), ("y", "2" * 30)]
    prompt = prompt_of(known, Gap(letters, letters, files), vocabulary, 100, 16)
    assert len(prompt) + 16 <= 100
    text = written(prompt, vocabulary)
    before, after = text.removeprefix("<|fim_prefix|>").removesuffix("<|fim_middle|>").split("<|fim_suffix|>")
    assert before.endswith("789") and after.startswith("012") and len(before) == 3 * len(after)
    # The last file has room beside short texts, and the first has not.
    text = written(prompt_of(known, Gap(letters[:10], letters[:10], files), vocabulary, 100, 16), vocabulary)
    assert "y\n2" in text and "x\n1" not in text


def test_a_long_answer_leaves_most_of_the_context_to_the_prompt() -> None:
    vocabulary = with_marks(QWEN)
    letters = list(range(40, 60)) * 20
    prompt = prompt_of(form(vocabulary), Gap(letters, letters), vocabulary, 100, 1000)
    assert 70 <= len(prompt) <= 75


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_cut_fills_the_room(before: int, after: int, room: int) -> None:
    one, other = list(range(before)), list(range(100, 100 + after))
    left, right = cut(one, other, room)
    assert len(left) + len(right) == min(room, before + after)
    assert list(left) == one[before - len(left) :] and list(right) == other[: len(right)]
    assert len(right) <= max(room // 4, room - before)


def test_no_mark_stands_for_two_things() -> None:
    for names in FORMS:
        marks = [*names.prefix, *names.suffix, *names.middle, *names.repository, *names.file, *names.ends]
        assert len(set(marks)) == len(marks)
