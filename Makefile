# `make demo` and `make test` need nothing but Python 3.10 or newer.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUTPUT ?= outputs

.PHONY: demo test bench lint

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python enhanced_inference_cli.py --cache-preset hybrid --output_dir $(OUTPUT)

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
