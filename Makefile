# Every target does all the set-up that it needs: Python 3.11 with pip, and for `test` and `check` gcc, g++ and cmake.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# Two processes for the tests, because most of them wait for programs to start. A module's tests share what it sets up.
TWO := --numprocesses 2 --dist loadfile
# Threads that wait for work are not to take the other process's core.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test quick check proto clean

demo: $(VENV)/.demo  ## lead and back on this machine, four ways to ask the same questions, then a chat
	$(BIN)/python -m bench demo

test: $(VENV)/.all  ## every test
	-$(BIN)/python -m bench.harness.real  # once; where they cannot be had, the tests that need them are skipped and say why
	$(BIN)/python -m pytest $(TWO)

quick: $(VENV)/.all  ## the tests to run all the time
	$(BIN)/python -m pytest $(TWO) -m "not slow"

check: $(VENV)/.all  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proto: $(VENV)/.all  ## generate duo/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. duo/v1/duo.proto

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[lead,transformers]'
	touch $@

$(VENV)/.all: $(VENV)/.demo
	$(PIP) --editable '.[all,dev]'
	touch $@
