# `make demo` and `make test` are each enough on a machine with Python 3.11 or newer, make and a package index.
# Another torch, for instance without CUDA: make test TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-cache-dir --constraint constraints.txt

.PHONY: help install demo test test-faults bench format clean

help:
	@echo "make demo     the whole job on embedded phantoms, in a few minutes"
	@echo "make test     lint, types, layers and tests"
	@echo "make test-faults  what happens when things die (a quarter of an hour or more)"
	@echo "make bench    what a search step costs, against other networks (some minutes on a quiet machine)"
	@echo "make install  only sets up $(VENV)"
	@echo "make format   formats the code"
	@echo "make clean    removes $(VENV) and caches, never results/"

install: $(READY)

# torch first and alone, so that the pinned version is taken whatever the other packages ask for.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("thrifty needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV) (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(TORCH_ARGS) torch
	@$(PIP) --editable '.[dev,cluster,storage,dicom,export,mlflow]'
	@touch $@

demo: $(READY)
	@$(BIN)/thrifty run tune_runs/demo.yaml

test: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/pyrefly check --output-format min-text
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

# The quick case of every fault, then all that takes long; the log is committed.
test-faults: $(READY)
	@{ date -u '+%Y-%m-%d %H:%M UTC'; \
	$(BIN)/python -m pytest -v --durations=0 tests/test_faults.py tests/test_setbacks.py tests/test_trials.py; \
	$(BIN)/python -m pytest -m faults -v --durations=0; } 2>&1 | tee docs/faults.log

# On a machine that does nothing else.
bench: $(READY)
	@$(BIN)/python benchmarks/bench.py --write

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache
	find thrifty tests -name __pycache__ -type d -prune -exec rm -rf {} +
