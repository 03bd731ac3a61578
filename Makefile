# Every target does all the set-up that it needs: Python 3.11 with pip, and for `test` and `check` gcc, g++ and cmake.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# Two processes for the tests, because most of them wait for programs to start. A module's tests share what it sets up.
# tests/conftest.py says which files come first; pytest-xdist would begin with those of the most tests.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Tests that need neither torch nor llama.cpp.
UNIT := tests/test_layout.py tests/test_sentences.py tests/duo/draft tests/duo/wire tests/duo/sampling/test_sampler.py \
	tests/duo/engines/test_meaning.py tests/lead/plan tests/lead/decode/test_session.py tests/lead/answers/test_text.py \
	tests/lead/simulation
# Threads that wait for work are not to take the other process's core.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help demo test quick unit check fix proto clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

demo: $(VENV)/.demo  ## lead and back on this machine, four ways to ask the same questions, then a chat
	$(BIN)/python -m bench demo

test: $(VENV)/.all  ## every test
	-$(BIN)/python -m bench.harness.real  # once; where they cannot be had, the tests that need them are skipped and say why
	$(BIN)/python -m pytest $(PARALLEL)

quick: $(VENV)/.all  ## the tests to run all the time
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

unit: $(VENV)/.unit  ## the quick tests that need no runtime: nothing is built for them
	$(BIN)/python -m pytest -m "not slow" $(UNIT)

check: $(VENV)/.all  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.unit  ## put style right where ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.all  ## generate duo/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. duo/v1/duo.proto

clean:  ## remove the virtual environment and all that is built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[lead,transformers]'
	touch $@

$(VENV)/.unit: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[lead,dev]'
	touch $@

$(VENV)/.all: $(VENV)/.demo
	$(PIP) --editable '.[all,dev]'
	touch $@
