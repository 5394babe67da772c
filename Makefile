# `make demo` and `make test` need nothing but Python 3.10 or newer.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUTPUT ?= outputs

.PHONY: demo test test-oldest bench lint

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python enhanced_inference_cli.py --cache-preset hybrid --output_dir $(OUTPUT)

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# The oldest versions that are supported, on the oldest Python; the page and its tests are left out.
OLDEST_PYTHON ?= python3.10
OLDEST_VENV ?= .venv-oldest
OLDEST_PACKAGES = accelerate hypothesis matplotlib pytest pytest-xdist scikit-image

$(OLDEST_VENV)/.installed: pyproject.toml constraints-oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip install --quiet --editable . $(OLDEST_PACKAGES) \
		--constraint constraints-oldest.txt
	touch $@

test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_VENV)/bin/python -m pytest -m "not slow and not gpu" --ignore tests/web \
		--numprocesses auto --dist worksteal

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
