# make demo   set up and classify the bundled clip live
# make test   set up and run all tests
# make check  formatting, lint and types

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core-installed
TEST := $(VENV)/.test-installed

.PHONY: demo test check clean

demo: $(CORE)
	$(BIN)/stream-ann live demo

test: $(TEST)
	$(BIN)/python -m pytest

check: $(TEST)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stream-ann needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(CORE): pyproject.toml $(VENV)/bin/pip
	@echo "Installing (torch is large: this takes a few minutes the first time) ..."
	$(BIN)/pip install --quiet -e .
	@touch $@

$(TEST): pyproject.toml $(VENV)/bin/pip
	@echo "Installing (torch is large: this takes a few minutes the first time) ..."
	$(BIN)/pip install --quiet -e '.[test]'
	@touch $@ $(CORE)
