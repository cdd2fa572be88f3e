# Two commands on a fresh machine (Python 3.11, a C++ compiler): make demo, make test. See CONTRIBUTING.md.
BIN := .venv/bin
PREPARE := scripts/with-python scripts/prepare.py
JOBS ?= 2
ARGS ?=
SECONDS ?= 300
PYTEST := $(BIN)/python -m pytest
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check model bench fuzz lint format clean prepare-demo prepare-test

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name words; do printf '  make %-8s %s\n' "$$name" "$$words"; done

prepare-demo:
	@$(PREPARE) demo

prepare-test:
	@$(PREPARE) test

demo: prepare-demo ## three agents on this host find, agree on, fix and verify real trouble (ARGS="..." goes to the demo)
	@$(BIN)/cloudisense demo $(ARGS)

test: lint ## everything that must hold: style, types, layers, tests (ARGS="..." goes to pytest)
	@echo "test: pytest on $(JOBS) processes"
	@$(PYTEST) -n $(JOBS) $(ARGS)

check: prepare-test ## what takes longer: slow tests and long random ones, with new seeds each time
	@echo "check: slow tests, and properties with more and random examples"
	@$(PYTEST) -n $(JOBS) -m "slow or hypothesis" --hypothesis-profile=long --timeout=300 $(ARGS)

model: ## every history of a small model of the lease, with Debian's spin: some minutes, 2 GB (ARGS="-DNO_WAIT" takes a rule away)
	@tests/model/check.sh $(ARGS)

bench: prepare-test ## our mesh beside serf, on hosts made of namespaces; root only (ARGS="--nodes 10 --quick")
	@$(BIN)/python -m benchmarks.mesh $(ARGS)

fuzz: prepare-test ## fuzz every decoder for SECONDS in all, and keep what found new ground (an hour: SECONDS=3600)
	@$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) $(ARGS)

lint: prepare-test ## style, types and layers only
	@echo "lint: ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted; run: make format"; exit 1; }
	@echo "lint: pyright"
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@echo "lint: layers"
	@$(BIN)/lint-imports --no-logo

format: prepare-test ## rewrite the sources in the one style, and sort imports
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format .

clean: ## remove what make made in this folder (not the model, not pip's cache)
	rm -rf .venv .prepare.lock dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
