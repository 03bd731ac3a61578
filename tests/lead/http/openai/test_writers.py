"""Chunks that say who guessed their text."""

from __future__ import annotations

import pytest

from lead.api import Piece
from tests.support.api import CALL, CHAT, HI, TEXT, WEATHER, chunks
from tests.support.http import ScriptedAnswerer


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_who_guessed_a_piece(url: str, answerer: ScriptedAnswerer, path: str) -> None:
    answerer.script = [(Piece("On"), Piece("ce", ("attic", "cellar"))), (Piece(""), Piece(" more", ("cellar",)))]
    given = {"messages": HI} if path == CHAT else {"prompt": "a"}
    told = [chunk["choices"][0].get("accepted") for chunk in chunks(url, path, accepted=True, **given)]
    assert [entry for entry in told if entry] == [[["On", ""], ["ce", "attic"]], [[" more", "cellar"]]]


def test_who_guessed_a_piece_beside_tools(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [(Piece("a <", ("attic",)),), (Piece(" b", ("cellar",)),), (f"<tool_call>{CALL}</tool_call>",)]
    told = [
        chunk["choices"][0]["accepted"]
        for chunk in chunks(url, CHAT, messages=HI, tools=[WEATHER], accepted=True, logprobs=True)
        if chunk["choices"][0].get("accepted")
    ]
    assert told == [[["a ", "attic"]], [["<", "attic"], [" b", "cellar"]]]
