# make serve:      from nothing to certified answers from a running Triton, until Ctrl-C.
# make test:       linter, type checker, the order of the rooms, and every test.
# make test-fast:  the tests that take seconds.
# Each makes its own virtual environment first; PYTHON chooses the interpreter (3.10 to 3.12).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

ifneq ($(words $(VENV)),1)
$(error VENV: expected one path without spaces, got '$(VENV)'; make $(or $(MAKECMDGOALS),serve) VENV=.venv)
endif

.PHONY: serve test test-fast clean
.DELETE_ON_ERROR:
.NOTPARALLEL: # all install into one environment

serve: $(VENV)/train.installed
	$(BIN)/heatserve quickstart

test: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m pytest

test-fast: $(VENV)/dev.installed
	$(BIN)/python -m pytest -m "not slow"

# Of pip's output, errors and the downloads of a megabyte or more are shown.
$(VENV)/%.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 13) or sys.exit("heatserve needs Python 3.10 to 3.12, this is %d.%d: make $(or $(MAKECMDGOALS),serve) PYTHON=python3.12" % v)'
	@echo "Installing heatserve[$*] into $(VENV): PyTorch, ONNX Runtime, Triton and what they need. This takes some minutes,"
	@echo "0.5 GB of downloads and 2 GB on disk (3 GB and 7 GB if pip takes PyTorch's CUDA build). The largest downloads:"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --constraint constraints.txt --editable '.[$*]' | { grep --line-buffered -E '^ *(Downloading|Processing) .*(MB|torch-)' || true; }
	@echo "Installed: $$(du -sh $(VENV) | cut -f1) in $(VENV)."
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis runs model_repository/quickstart_digits*
