# A newcomer needs two of these: `make demo` and `make test`. Both make their own environment.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# 3.11 first: it is the version that every kind of test was made on. PYTHON=… chooses another.
PYTHON ?= $(shell bash .ci/interpreter 3.11 3.12 3.13 3.10)
# Installed first and alone, so that a build for this machine (CPU, CUDA) that pip already knows
# about is taken and nothing that comes after it changes it. TORCH=… chooses another.
TORCH ?= torch==2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --progress-bar off
# The demo and the tests are about a tracker on this machine, whatever is exported here.
LOCAL := env -u MLFLOW_TRACKING_URI -u MLFLOW_EXPERIMENT_NAME -u MLFLOW_EXPERIMENT_ID \
	-u MLFLOW_RUN_ID -u TRACELET_DISABLED -u TRACELET_MODE

.PHONY: help
help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: demo
demo: $(VENV)/demo.stamp  ## a real training into a local MLflow, then what arrived there
	@mkdir -p demo
	cd demo && $(LOCAL) ../$(BIN)/python ../examples/mlp.py
	cd demo && $(LOCAL) ../$(BIN)/python ../examples/what_arrived.py --mlflow ../$(BIN)/mlflow

.PHONY: test
test: $(VENV)/test.stamp  ## everything that can be proved on this machine
	@bash .ci/browser
	@bash .ci/postgresql >/dev/null
	$(LOCAL) .ci/tests $(BIN)/python --no-skips -m "not stores" $(PYTEST_ARGS)

.PHONY: stores
stores: $(VENV)/test.stamp  ## the whole contract on further kinds of MLflow server
	@bash .ci/postgresql >/dev/null
	$(LOCAL) $(BIN)/python -m pytest --no-skips -m stores tests/contract tests/deploy $(PYTEST_ARGS)

.PHONY: pictures
pictures: $(VENV)/test.stamp  ## take the pictures of the docs anew, in a real browser
	@bash .ci/browser
	$(LOCAL) $(BIN)/python docs/pictures/take.py

.PHONY: soak
soak: $(VENV)/test.stamp  ## SIGKILL at any moment, KILLS=100 times for each case, and at every system call
	$(LOCAL) TRACELET_KILLS=$(or $(KILLS),100) $(BIN)/python -m pytest -s -o faulthandler_timeout=0 tests/pipeline/test_kill.py tests/pipeline/test_kill_mlflow.py tests/pipeline/test_failpoints.py

.PHONY: foreign
foreign: $(VENV)/test.stamp  ## other projects' tests of their writers, with a run around them and without
	$(LOCAL) $(BIN)/python tests/foreign/run.py .venvs/foreign $(SUITES)

.PHONY: bench
bench: $(VENV)/test.stamp  ## the figures of README; QUICK=1 for a short look
	$(LOCAL) $(BIN)/python -m benchmarks $(if $(QUICK),--quick)

.PHONY: lint
lint: $(VENV)/lint.stamp  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/lint.stamp $(VENV)/test.stamp  ## mypy --strict
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/lint.stamp  ## what can be mended without thinking
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean:  ## take away the environments and what the demo made
	rm -rf $(VENV) .venvs build demo dist .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/base.stamp:
	@test -n "$(PYTHON)" || { echo "tracelet: no Python from 3.10 to 3.13 found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON); the first time takes a few minutes"
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) --upgrade pip
	$(PIP) "$(TORCH)"
	@touch $@

$(VENV)/demo.stamp: $(VENV)/base.stamp pyproject.toml
	$(PIP) --editable ".[mlflow,tensorboard,system]"
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) --group test --group stack --group trackers
	@touch $@

# The types of what we ship for tests need what tests need.
$(VENV)/lint.stamp: $(VENV)/test.stamp
	$(PIP) --group lint
	@touch $@
