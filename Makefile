# Two commands matter: `make demo` tells the whole story, `make test` proves it. Both set up what they need in .venv.
# `make help` lists the rest. Dependencies are locked with hashes in requirements/; ranges are in pyproject.toml.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test browser check types lint contracts mutants fuzz bench-verify lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.run  ## the whole story on this machine, attacks included
	@$(BIN)/enarx demo

test: check  ## everything that CI runs

check: contracts lint types  ## import contracts, linter, formatter, strict types, and the tests with coverage
	@$(BIN)/python -m pytest -n auto --cov --cov-report=term:skip-covered $(ARGS)

contracts: $(VENV)/.dev
	@$(BIN)/lint-imports --cache-dir .cache/import-linter

lint: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/mypy src tests scripts benchmarks

browser: $(VENV)/.dev  ## look at the registry's pages with headless Chromium (Debian: chromium); part of `make test`
	@$(BIN)/python -m pytest -q tests/browser $(ARGS)

mutants: $(VENV)/.dev  ## break the verifiers one change at a time: does a test notice?
	@nice $(BIN)/python scripts/mutants.py $(ARGS)

fuzz: $(VENV)/.fuzz  ## feed every parser with what a fuzzer makes of its seeds, ten seconds each
	@$(BIN)/python scripts/fuzz.py $(ARGS)

bench-verify: $(VENV)/.dev  ## verifications and requests per second and core, beside bare cryptography and a peer
	@$(BIN)/python benchmarks/verify.py $(ARGS)

lock:  ## resolve the ranges of pyproject.toml anew (needs uv)
	@for set in run dev fuzz; do \
	  group=$$([ $$set = run ] || echo "--group $$set"); \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	    $$group pyproject.toml requirements/build.in --output-file requirements/$$set.txt || exit 1; \
	done

clean:  ## forget the environment and every cache
	rm -rf $(VENV) .cache build dist .coverage*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.txt pyproject.toml | $(BIN)/python
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

$(VENV)/.fuzz: requirements/fuzz.txt $(VENV)/.dev
	@$(PIP) install --require-hashes -r requirements/fuzz.txt
	@touch $@
