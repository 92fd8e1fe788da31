.DEFAULT_GOAL := help
PYTHON ?= python3
PROFILE ?= ci
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export HYPOTHESIS_PROFILE := $(PROFILE)
# numba does not notice a changed kernel in another module: compiled code is kept by the sources' checksum
export NUMBA_CACHE_DIR := $(CURDIR)/$(VENV)/numba/$(shell cat refimpl/*.py | cksum | cut -d" " -f1)

.PHONY: help setup verify test bench lint format accuracy infonce mutants sharpness strategies gallery faults tables docs data clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint,bench,examples,docs]'
	@touch $(READY)

setup: $(READY) ## build the environment once; it is reused until pyproject or constraints change

verify: $(READY) ## hold every torch loss to its oracle, on adversarial and on real input
	$(BIN)/python -m refimpl verify torchimpl $(ARGS)

test: $(READY) ## run the tests (PROFILE=ci, dev or deep)
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

bench: $(READY) ## time and memory of this commit, with asv
	$(BIN)/python scripts/bench.py $(ARGS)

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(READY) ## let ruff lay out the code
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

mutants: $(READY) ## break the losses on purpose and count what the engine notices
	$(BIN)/python scripts/mutants.py $(ARGS)

sharpness: $(READY) ## try 100,000 cases against the error bounds and write how close they come
	$(BIN)/python scripts/sharpness.py --write $(ARGS)

accuracy: $(READY) ## hold the negative-binomial CDF against 50 digits and beside other packages
	$(BIN)/python scripts/accuracy.py --write $(ARGS)

infonce: $(READY) ## time, memory and accuracy of InfoNCE beside other ways to it
	$(BIN)/python scripts/infonce.py all --write $(ARGS)

strategies: $(READY) ## write which weakness every family of inputs finds
	$(BIN)/python scripts/strategies.py --write $(ARGS)

faults: $(READY) ## write which property reports every fault planted by hand
	$(BIN)/python -m tests.faults --write $(ARGS)

tables: $(READY) ## write the tables of losses and properties from the catalogue
	$(BIN)/python scripts/catalogue.py --write $(ARGS)

gallery: $(READY) ## write what the engine finds in the textbook forms and in a released package
	$(BIN)/python scripts/gallery.py --write $(ARGS)

docs: $(READY) ## build the documentation site into site/
	$(BIN)/mkdocs build --strict $(ARGS)

data: $(READY) ## regenerate the bundled real data from its sources
	$(BIN)/python scripts/make_data.py

clean: ## remove everything that a target made
	rm -rf $(VENV) .asv site build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
