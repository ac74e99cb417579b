# Every target first sets .venv up; where that is current it costs a tenth of a second.
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint format types unit integration lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## .venv with everything this machine needs
	@python3 -m cluster.setup

quickstart: setup ## the whole method on a small real model, on this machine
	@.venv/bin/distill run quickstart

test: lint types ## lint, types, unit and integration tests
	@.venv/bin/python -m pytest tests/unit tests/integration

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

lock: setup ## new locks under cluster/requirements from pyproject.toml
	@python3 -m cluster.setup lock

clean: ## caches and build leftovers; runs and .venv stay
	@rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .setup.log
	@find cluster serve distill tests -name __pycache__ -prune -exec rm -rf {} +
