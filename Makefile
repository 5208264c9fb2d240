# make serve: from nothing to certified answers from a running Triton, until Ctrl-C.
# make test:  linter, type checker and every test.
# Both make their own virtual environment first; PYTHON chooses the interpreter (3.10 to 3.12).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: serve test clean
.DELETE_ON_ERROR:

serve: $(VENV)/train.installed
	$(BIN)/heatserve quickstart

test: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m pytest

$(VENV)/%.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 13) or sys.exit("heatserve needs Python 3.10 to 3.12, this is %d.%d: make PYTHON=python3.12 ..." % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis runs model_repository/quickstart_digits
