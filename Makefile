# Every target sets up what it needs, so each works as the only command typed after a clone.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

# Any of these will do, as long as it is Python 3.11 or later; override with `make PYTHON=/path/to/python ...`.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$python" && break; done)
BIN := .venv/bin
READY := .venv/.locked
# What the engine is compared with on Kafka needs other versions of what it needs itself.
PEERS := .venv/stream-peers

.PHONY: help setup demo test test-fast bench bench-learning chaos endurance check lock clean

help: ## Show what can be typed
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with everything locked

$(READY): requirements-dev.lock benchmarks/peers.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; found none (python3.11, python3.12, python3.13, python3)." \
		"Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv || { rm -rf .venv; \
		echo "Could not create .venv with $(PYTHON); on Debian and Ubuntu install the package python3-venv." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement benchmarks/peers.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## See the engine decide, live, with simulated customers
	$(BIN)/batuta demo

test: setup ## Run every test; starts Apache Kafka when Java 17 and Maven are there
	$(BIN)/python -m pytest

test-fast: setup ## Run the tests that need neither a broker nor patience
	$(BIN)/python -m pytest -m "not broker and not slow"

bench: setup $(PEERS)/.locked ## Measure the engine, and on Apache Kafka beside quixstreams, Faust and bare loops; QUICK=1 for a shorter form
	$(BIN)/python -m benchmarks

$(PEERS)/.locked: benchmarks/stream_peers.lock $(READY)
	@test -x $(PEERS)/bin/python || "$(PYTHON)" -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement benchmarks/stream_peers.lock
	@touch $@

bench-learning: setup ## Play the learning beside other libraries on real data; QUICK=1 for a shorter form
	$(BIN)/python -m benchmarks.learning

chaos: setup ## Kill, freeze and cut off workers and brokers, and account for every signal; QUICK=1 for a shorter form
	$(BIN)/python -m benchmarks.chaos

endurance: setup ## Send a worker ten times what it manages, then load it for half an hour, and see what grows; QUICK=1 for a shorter form
	$(BIN)/python -m benchmarks.endurance

check: setup ## Lint, formatting, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# For every platform and every Python from 3.11 on; without addresses, so any mirror of the registry serves it.
LOCK := uv pip compile --quiet --upgrade --no-config --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links

lock: ## Resolve the dependencies again and write the lock files (needs uv on the PATH)
	$(LOCK) pyproject.toml --output-file requirements.lock
	$(LOCK) pyproject.toml --group dev --output-file requirements-dev.lock
	$(LOCK) benchmarks/peers.txt --no-deps --no-annotate --output-file benchmarks/peers.lock
	$(LOCK) benchmarks/stream_peers.txt --no-annotate --output-file benchmarks/stream_peers.lock

clean: ## Remove .venv and everything tools left behind
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
