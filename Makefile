# Every target first sets .venv up; where that is current it costs a tenth of a second.
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-stage lint format types unit integration e2e lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## .venv with everything this machine needs
	@python3 -m cluster.setup

quickstart: setup ## the whole method on a small real model, on this machine
	@.venv/bin/distill run quickstart

test: lint types ## lint, types, then all tests: unit, integration, end to end
	@.venv/bin/python -m pytest tests/unit tests/integration tests/e2e

# Folders of tests have the names of folders of the source; a folder below one may be named too: STAGE=train/worker.
STAGES = $(sort $(notdir $(patsubst %/__init__.py,%,$(wildcard tests/unit/*/__init__.py tests/integration/*/__init__.py))))
STAGE_TESTS = $(if $(STAGE),$(wildcard tests/unit/$(STAGE) tests/integration/$(STAGE)))

test-stage: setup ## STAGE=mix: lint, then the unit and integration tests of that folder
	@$(if $(STAGE_TESTS),true,echo "make test-stage STAGE=$(or $(STAGE),NAME): NAME is one of $(STAGES)" >&2; exit 2)
	@.venv/bin/ruff check && .venv/bin/ruff format --check
	@.venv/bin/python -m pytest $(STAGE_TESTS)

lint: setup ## ruff: rules and layout
	@.venv/bin/ruff check && .venv/bin/ruff format --check

format: setup ## what ruff can repair by itself
	@.venv/bin/ruff check --fix && .venv/bin/ruff format

types: setup ## mypy, strict
	@.venv/bin/mypy

unit: setup ## tests without Ray, under 30 s
	@.venv/bin/python -m pytest tests/unit

integration: setup ## tests on local Ray, vLLM and DeepSpeed with tiny models
	@.venv/bin/python -m pytest tests/integration

e2e: setup ## whole runs through the command line with tiny models, and their resumption
	@.venv/bin/python -m pytest tests/e2e

lock: setup ## new locks under cluster/requirements from pyproject.toml
	@python3 -m cluster.setup lock

clean: ## caches and build leftovers; runs and .venv stay
	@rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .setup.log
	@find cluster serve distill tests -name __pycache__ -prune -exec rm -rf {} +
