# On a fresh machine: `make quickstart` trains a small model from start to end, `make test` runs the tests.
# Both install into .venv first, once, and again when pyproject.toml or constraints.txt have changed.

PYTHON ?= python3
WORKDIR ?= runs/quickstart
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
OLD_PYTHON := Python 3.11 or newer is needed: make PYTHON=python3.11 ...

.PHONY: help quickstart test lint bench

help:
	@echo "make quickstart   train a small model on the embedded corpus (WORKDIR=$(WORKDIR))"
	@echo "make test         run the tests"
	@echo "make lint         check style, format and types"
	@echo "make bench        time the training step beside PyTorch; TEXT=FILE times the data pipeline too"

quickstart: $(VENV)/installed
	$(BIN)/python -m pretrain --config=configs/quickstart.py --workdir=$(WORKDIR)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/step_time.py
ifdef TEXT
	$(BIN)/python -m benchmarks.data_pipeline --path=$(TEXT)
endif

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("$(OLD_PYTHON)" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# The stamps come after pip has succeeded, so an installation that broke off is taken up again.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/installed
