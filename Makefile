# Every target does its own set-up: a fresh machine needs Python 3.11 or later and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo fmt lint types test test-fast test-oracle cover samples browser registry screenshots bench docs build check clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/.demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/.setup: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[tensorflow,report,remote,dask,package,sign,dev]'
	@touch $@ .venv/.demo

setup: .venv/.setup ## Build .venv with every extra

demo: .venv/.demo ## Convert a sample checkpoint to safetensors and show what is in both
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/demo.sh

fmt: .venv/.setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .

lint: .venv/.setup ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.setup ## Check types
	sh tools/types.sh $(BIN)/mypy

test: lint types test-fast test-oracle ## Run all checks and tests

test-fast: .venv/.setup ## Run the tests that need no other framework
	$(BIN)/pytest -m 'not oracle'

test-oracle: .venv/.setup ## Run the tests against TensorFlow, Keras and the other implementations
	$(BIN)/pytest -m oracle

cover: .venv/.setup ## Measure how much of the code the tests run
	$(BIN)/coverage run -m pytest -m 'not oracle'
	$(BIN)/coverage report --fail-under=95

browser: ## Install the browser of the report's tests: Debian's chromium, by apt
	sh tools/browser.sh

registry: ## Install the registry of the packages' tests: docker-registry and skopeo, by apt
	sh tools/registry.sh

screenshots: .venv/.setup ## Take the pictures of the guide again; needs the browser
	$(BIN)/python tools/screenshots.py

samples: .venv/.setup ## Make the sample models again; needs TensorFlow
	$(BIN)/python sample_models/generate.py

bench: .venv/.setup ## Time conversions against cp and against what people do today
	$(BIN)/python benches/bench.py

docs: .venv/.setup ## Write the generated parts of README and docs again
	$(BIN)/python tools/generate_docs.py

build: .venv/.setup ## Build the wheel and try it in an empty environment
	sh tools/try_wheel.sh $(BIN)/python

check: test build ## What CI runs: all checks and tests, and the wheel

clean: ## Remove everything that was made
	rm -rf .venv .dev build dist demo *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
