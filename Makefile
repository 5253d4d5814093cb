PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo bench test test-torch check lint contract campaign patches-check clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[solver,viz,bench,dev]'
	touch $@

setup: $(READY)  ## create .venv with everything that the other targets need

demo: $(READY)  ## compile two models, print eager, stock and memsched side by side, draw memory over time
	$(BIN)/python -m bench demo

bench: $(READY)  ## the benchmark of checkpointed models (about an hour); rows, tables and figures in bench/results/
	$(BIN)/python -m bench run --suite ac --output bench/results/cpu
	$(BIN)/python -m bench report bench/results/cpu

test: $(READY)  ## all tests; those of plans for CUDA need triton (200 MB, once), and are skipped where it cannot be had
	-$(BIN)/memsched plan --setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: lint  ## ruff, mypy and the fast tests: those that neither compile nor plan models
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not compile and not plans"

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy

campaign: $(READY)  ## all random campaigns: graphs, forged plans, bad files, faults, a soak (hours); results in tests/campaign/
	$(BIN)/python -m tests.campaign

patches-check: $(READY)  ## do the patches apply to VERSION=2.15.0 of torch (all supported ones without it)?
	$(BIN)/python -m memsched.patching.versions $(VERSION)

contract: $(READY)  ## do all supported releases of torch have the private names that memsched relies on? (read out of wheels)
	$(BIN)/python -m memsched.patching.contract

VERSION ?= 2.15.0
TORCH_VENV := .venv-torch-$(VERSION)

test-torch:  ## what every supported torch must do, under VERSION=2.15.0 of it, in an environment of its own (CUDA build, ~5 GB)
	test -e $(TORCH_VENV)/.ready || $(PYTHON) -m venv $(TORCH_VENV)
	test -e $(TORCH_VENV)/.ready || PIP_CONSTRAINT=/dev/null $(TORCH_VENV)/bin/python -m pip install -q \
		--disable-pip-version-check "torch==$(VERSION)" numpy pytest pytest-timeout hypothesis
	test -e $(TORCH_VENV)/.ready || PIP_CONSTRAINT=/dev/null $(TORCH_VENV)/bin/python -m pip install -q \
		--disable-pip-version-check --no-deps -e .
	touch $(TORCH_VENV)/.ready
	PYTHONPATH=. $(TORCH_VENV)/bin/python -m pytest tests/versions

clean:  ## remove what the targets made
	rm -rf $(VENV) .venv-torch-* build *.egg-info .pytest_cache .mypy_cache .ruff_cache
