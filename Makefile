# Everything that a person or a machine does with a checkout. `make help` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRAIN ?= +experiment=hybrid

.PHONY: help install train paper notebook docs test test-long test-all matrix lint clean
.DEFAULT_GOAL := help

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1@\2/' | column -t -s @

install: $(VENV)/installed ## make .venv and install the tested versions (2 to 4 minutes, 7 GB)

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: install ## train the hybrid model on synthetic looks (4 to 5 minutes on 2 cores); options: make train TRAIN="..."
	$(BIN)/python -m ctl_lightning.train $(TRAIN)

paper: install ## every method, five seeds, one table (hours); options: make paper PAPER="..."
	$(BIN)/python -m ctl_lightning.paper $(PAPER)

notebook: install ## make the notebook anew from its script in examples/, run it (4 minutes) and keep its pictures
	$(BIN)/jupytext --quiet --update --to ipynb examples/complete_the_look.py
	$(BIN)/jupyter execute --inplace examples/complete_the_look.ipynb

test: install ## the quick test suite (about 8 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 -m "not long and not real and not slurm"

test-long: install ## whole programs that are killed, continued and installed; a real SLURM and a real browser, where they are installed (20 to 30 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 -m long
	$(BIN)/python -m pytest -m slurm -rs

test-all: test test-long ## and the tests on the real photos in ../shared
	$(BIN)/python -m pytest -m real

matrix: install ## the quick suite on every Python 3.11 to 3.14 that is here, and with the newest packages; options: make matrix NOX="-s newest"
	$(BIN)/python -m nox $(NOX)

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install ## the documentation as a site, in site/ (10 seconds); to read it: python3 -m http.server --directory site
	$(BIN)/python docs/reference.py
	$(BIN)/zensical build --clean --strict

clean: ## remove what the tools left; runs/ and cache/ stay
	rm -rf $(VENV) .nox build dist site docs/reference .cache .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
