# Needs python3 (3.11 or later, with venv) and make; installs into .venv, at the versions of constraints.txt.

PYTHON  ?= python3
SERVE   ?= 1
SIZE    ?= demo
PORT    ?= 8000
WORKERS ?= 2

BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos lint format bench docs clean

help:
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/installed  ## install Mercato and its tools into .venv (nothing to do: at once)

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv; this takes some minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,train]"
	@touch $@

demo: setup  ## the whole path on a simulated market, then the page of the better model (SERVE=0: no page; SIZE=tiny|demo|study; PORT=8000)
	$(BIN)/mercato demo demo --size $(SIZE) --port $(PORT) $(if $(filter 0,$(SERVE)),--no-serve)

# One thread a worker: two workers with two threads each stand in each other's way on two cores.
test: setup  ## every test, in WORKERS=2 processes
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || \
		echo "There is no Chromium here: the tests that drive the page in a browser are left out."
	OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile

# An attack has the machine for itself: its searches have to be answered within a second.
chaos: setup  ## every attack, long: kills, full disks, floods, damage, wild files; a table (JSON=FILE: that too)
	MERCATO_CHAOS=1 MERCATO_CHAOS_JSON=$(JSON) OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/pytest -m chaos

lint: setup  ## ruff (style, formatting), the import contracts and mypy (strict types)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

format: setup  ## let ruff fix what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup  ## string to vector, and hybrid search on 200,000 products, each beside a reference
	$(BIN)/mercato bench query
	$(BIN)/mercato bench search

docs: setup  ## check the documentation: its links lead somewhere, its commands exist
	$(BIN)/pytest tests/test_docs.py

clean:  ## remove everything made here: .venv, the demo, caches
	rm -rf .venv demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .schemathesis
	find . -name __pycache__ -prune -exec rm -rf {} +
