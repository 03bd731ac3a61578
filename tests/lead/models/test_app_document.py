"""The OpenAPI document of a lead of several models against the server."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import settings
from schemathesis import Case

from lead.models.app import Front
from lead.models.pool import Pool
from lead.models.settings import ModelSettings, Settings
from tests.support.http import PATIENCE
from tests.support.models_front import running
from tests.support.openapi import CONVERSATIONS, SECOND_NAMES, SETTINGS, check, made_simple

NAMES = ("alpha", "beta")
DOCUMENT: Any = Front(Pool(Settings([ModelSettings(name, argparse.Namespace()) for name in NAMES])), list).document

HANDED_ON = "^/(v1/(chat|completions|responses|messages)|messages|infill|tokenize|detokenize|apply-template|props)"
"""Paths that a model's own lead answers."""
FEW = settings(SETTINGS, max_examples=2)
"""What a single lead says has tests of its own."""
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT).exclude(path_regex=SECOND_NAMES).exclude(path_regex=HANDED_ON)
OF_MODELS = schemathesis.openapi.from_dict(DOCUMENT).exclude(path_regex=SECOND_NAMES).include(path_regex=HANDED_ON)
# These models cannot fill gaps, which is a 501: `tests/lead/http/info/test_openapi.py` has one that can.
OF_MODELS = OF_MODELS.exclude(path="/infill")
# schemathesis would make hundreds of requests for the fields of each endpoint.
OF_MODELS.config.phases.coverage.enabled = False

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Both models are loaded, and a third one never is."""
    text = "models: {alpha: {}, beta: {}, gamma: {}}\nmax_loaded: 2"
    with running(tmp_path_factory.mktemp("models"), text, *NAMES) as url:
        yield url


def asked(case: Case[Any], address: str) -> None:
    check(case, DOCUMENT, base_url=address, headers={"Authorization": "Bearer client"})


@SCHEMA.parametrize()
@FEW
def test_answers_are_what_the_document_says(case: Case[Any], address: str) -> None:
    asked(case, address)


@OF_MODELS.parametrize()
@FEW
def test_answers_of_a_model_are_too(case: Case[Any], address: str) -> None:
    if re.match(CONVERSATIONS, case.path):
        made_simple(case)
    if isinstance(case.body, dict):
        case.body["model"] = "alpha"
    asked(case, address)


def test_names_of_models_that_are_not_there_are_in_the_document(address: str) -> None:
    """schemathesis may not come across them."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            if not re.match(HANDED_ON, path):
                continue
            answer = requests.request(
                method, f"{address}{path}?model=nobody", headers={"Authorization": "Bearer client"}, timeout=PATIENCE
            )
            assert answer.status_code == 404 and "404" in operation["responses"], path
