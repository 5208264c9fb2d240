# make serve:      from nothing to certified answers from a running Triton, until Ctrl-C.
# make test:       linter, type checker, the order of the rooms, and every test.
# make test-fast:  the tests that take seconds.
# make docs:       the documentation site, in build/site: open build/site/index.html. It needs no network.
# make tools:      nginx, Prometheus, Alertmanager and Chromium for the tests that run them, into the environment (Debian,
#                  Ubuntu; no root).
# Each makes its own virtual environment first, of the first Python 3.10 to 3.12 among python3, python3.12, python3.11 and
# python3.10 on PATH, or else of one that uv has or downloads; PYTHON=… chooses it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?=
VENV ?= .venv
BIN := $(VENV)/bin
# Three processes, each with its own servers and one thread for each library, take a file at a time, in the order of
# names. On two cores: a third of their time is spent waiting.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check

ifneq ($(words $(VENV)),1)
$(error VENV: expected one path without spaces, got '$(VENV)'; make $(or $(MAKECMDGOALS),serve) VENV=.venv)
endif

.PHONY: serve test test-fast docs tools clean
.DELETE_ON_ERROR:
.NOTPARALLEL: # all install into one environment

serve: $(VENV)/train.installed
	$(BIN)/heatserve quickstart

test: $(VENV)/dev.installed tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(PYTEST)

test-fast: $(VENV)/dev.installed tools
	$(PYTEST) -m "not slow"

docs: $(VENV)/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Open build/site/index.html"

# Triton's wheel needs a numpy that was built for these versions.
FITS := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))
VERSION := import sys; print("Python %d.%d (%s)" % (*sys.version_info[:2], sys.executable))

$(BIN)/python:
	@fits() { command -v "$$1" > /dev/null && "$$1" -c '$(FITS)' 2> /dev/null; }; \
	if [ -n "$(PYTHON)" ]; then \
	    fits "$(PYTHON)" || { \
	        found="$$("$(PYTHON)" -c '$(VERSION)' 2> /dev/null || echo 'none')"; \
	        echo "PYTHON: expected Python 3.10 to 3.12, got $(PYTHON): $$found; leave PYTHON out to have one chosen" >&2; \
	        exit 1; }; \
	    python="$(PYTHON)"; \
	else \
	    python=""; \
	    for name in python3 python3.12 python3.11 python3.10; do \
	        if fits "$$name"; then python="$$name"; break; fi; \
	    done; \
	    if [ -z "$$python" ] && command -v uv > /dev/null; then \
	        python="$$(uv python find --no-project 3.12 2> /dev/null || \
	            { uv python install 3.12 >&2 && uv python find --no-project 3.12; } || true)"; \
	    fi; \
	    if [ -z "$$python" ]; then \
	        found="$$(python3 -c '$(VERSION)' 2> /dev/null || echo 'no python3')"; \
	        echo "heatserve needs Python 3.10 to 3.12, for which Triton's wheel is built; found $$found, and no python3.12," >&2; \
	        echo "python3.11, python3.10, or uv that has one, on PATH. Install one of them, or name one: make $(or $(MAKECMDGOALS),serve) PYTHON=/path/to/python3.12" >&2; \
	        exit 1; \
	    fi; \
	fi; \
	echo "Taking $$("$$python" -c '$(VERSION)')."; \
	"$$python" -m venv $(VENV)

# What each extra brings, and how much of it.
SERVED := PyTorch, ONNX Runtime, Triton and what they need
CUDA_BUILD := 2.5 GB and 5 GB more if pip takes PyTorch's CUDA build
train.brings := $(SERVED)
train.size := Some minutes, 0.5 GB of downloads and 2 GB on disk ($(CUDA_BUILD))
dev.brings := $(SERVED), attacks, and what tests start and check with
dev.size := Some minutes, 0.9 GB of downloads and 3 GB on disk ($(CUDA_BUILD))
docs.brings := MkDocs with its theme, and what writes the reference
docs.size := 50 MB of downloads and 0.3 GB on disk

# Of pip's output, errors and the downloads of a megabyte or more are shown.
$(VENV)/%.installed: pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -c '$(FITS)' || { echo "$(VENV): expected an environment of Python 3.10 to 3.12, got $$($(BIN)/python -c '$(VERSION)'); remove it, and make it again" >&2; exit 1; }
	@echo "Installing heatserve[$*] into $(VENV): $($*.brings)."
	@echo "$($*.size). The largest downloads:"
	@$(PIP) install --constraint constraints.txt --editable '.[$*]' | { grep --line-buffered -E '^ *(Downloading|Processing) .*(MB|torch-)' || true; }
	@echo "Installed: $$(du -sh $(VENV) | cut -f1) in $(VENV)."
	@touch $@

# Packages are unpacked, not installed: nothing outside of the environment changes. Without them, tests skip and say why.
# Chromium takes its libraries along, but for the C library, which is the system's, and drivers of graphics cards: the
# package lists are read as if nothing were installed, and a script starts it with the folders of what was unpacked.
TOOLS := $(abspath $(VENV))/tools
APT := apt-get -qq -o APT::Sandbox::User="$$(id -un)" -o Dir::State::Lists="$(TOOLS)/lists" -o Dir::Cache="$(TOOLS)/cache"
CLOSURE := -o Dir::State::status="$(TOOLS)/none" -o Debug::NoLocking=1 --no-install-recommends --print-uris
define START_CHROMIUM
#!/bin/sh
tools="$(TOOLS)"
libraries="$$(printf %s: "$$tools"/usr/lib/*-linux-gnu "$$tools"/lib/*-linux-gnu "$$tools"/usr/lib/*-linux-gnu/pulseaudio)"
export LD_LIBRARY_PATH="$$libraries" XDG_DATA_HOME="$$tools/usr/share" FONTCONFIG_PATH="$$tools/etc/fonts"
exec "$$tools/usr/lib/chromium/chromium-headless-shell" "$$@"
endef
export START_CHROMIUM

tools: | $(BIN)/python
	@have() { for name in "$$@"; do command -v "$$name" > /dev/null || return 1; done; }; \
	wanted=""; \
	have nginx prometheus promtool || [ -e "$(TOOLS)/usr/bin/promtool" ] || wanted="nginx prometheus"; \
	have chromium || have chromium-browser || have google-chrome || [ -e "$(TOOLS)/usr/bin/chromium" ] || wanted="$$wanted chromium"; \
	if [ -z "$$wanted" ]; then exit; fi; \
	if ! have apt-get dpkg; then \
	    echo "$$wanted: found neither them nor apt-get; tests that run them are skipped"; exit; fi; \
	mkdir -p "$(TOOLS)/lists/partial" "$(TOOLS)/cache/archives/partial"; cd "$(TOOLS)"; : > none; \
	unpack() { $(APT) download "$$@" && for package in *.deb; do dpkg -x "$$package" .; done && rm *.deb; }; \
	$(APT) update || true; \
	if [[ "$$wanted" == *nginx* ]] && ! unpack nginx prometheus prometheus-alertmanager; then \
	    echo "nginx, prometheus: could not be downloaded; tests that run them are skipped"; fi; \
	if [[ "$$wanted" == *chromium* ]]; then \
	    echo "Unpacking Chromium into $(TOOLS): 130 MB of downloads, 390 MB on disk."; \
	    packages="$$($(APT) $(CLOSURE) install chromium-headless-shell | cut -d ' ' -f 2 | cut -d _ -f 1 | \
	        grep -Ev '^(libc6|libc-bin|libllvm.*|libz3-4|libgl1-mesa-dri)$$' || true)"; \
	    if [ -n "$$packages" ] && unpack $$packages; then \
	        printf '%s\n' "$$START_CHROMIUM" > usr/bin/chromium; chmod +x usr/bin/chromium; \
	    else echo "chromium: could not be downloaded; tests that look at pages are skipped"; fi; fi; \
	rm -rf lists cache none *.deb

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis runs model_repository/quickstart_digits*
