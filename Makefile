# Everything a newcomer needs: `make run`, `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CONSTRAINTS ?= -c constraints.txt  # the tested versions; `make test CONSTRAINTS=` takes the newest
# Python compiles a module when it is first imported, and keeps that; most of the installed ones never are.
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile $(CONSTRAINTS)
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install run test test-full lint format type docs notebooks clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"robustsmooth needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}; name another one: make PYTHON=python3.12 ..." if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/pip pyproject.toml constraints.txt $(wildcard hydra_plugins/*/*.py)  # the plugin is copied
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@

install: $(VENV)/.installed-dev ## Make a virtual environment with everything for development

run: $(VENV)/.installed ## Train, certify, attack and compare three classifiers on real digits (minutes)
	$(BIN)/python -m robustsmooth.train experiment=digits/quickstart

test: lint type ## Install, lint, check types, run the tests that take minutes
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not gpu"

test-full: lint type ## All tests, the slow ones too
	$(BIN)/python -m pytest -q -n 2 -m "not gpu"

lint: $(VENV)/.installed-dev ## Style, spelling and the one-way imports between the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(VENV)/.installed-dev ## Check the type annotations
	$(BIN)/mypy

docs: $(VENV)/.installed-dev ## Build the documentation site into site/; a broken link or an undocumented name fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

notebooks: $(VENV)/.installed-dev ## Run the notebooks again and keep their outputs
	$(BIN)/jupyter nbconvert --log-level=ERROR --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False docs/notebooks/*.ipynb

clean: ## Remove the virtual environment, caches and build products (runs stay)
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
