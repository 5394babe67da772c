# `make demo` and `make test` need nothing but Python 3.10 or newer.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUTPUT ?= outputs

.PHONY: demo test test-slow test-all test-oldest bench pictures lint types docs reference pages

INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

# What drawing needs, and nothing more.
$(VENV)/.drawing: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/.installed: $(VENV)/.drawing
	$(INSTALL) ".[dev]"
	touch $@

demo: $(VENV)/.drawing
	$(BIN)/python enhanced_inference_cli.py --cache-preset hybrid --output_dir $(OUTPUT)

# Two tiers: `test` is for every change, `test-slow` what takes longer, `test-all` both.
PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test: $(VENV)/.installed
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed
	$(PYTEST) -m slow

test-all: $(VENV)/.installed
	$(PYTEST)

# The oldest versions that are supported, on the oldest Python; the page, the server and their tests
# are left out.
OLDEST_PYTHON ?= python3.10
OLDEST_VENV ?= .venv-oldest
OLDEST_PACKAGES = accelerate hypothesis matplotlib pytest pytest-xdist scikit-image

$(OLDEST_VENV)/.installed: pyproject.toml constraints-oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip install --quiet --editable . $(OLDEST_PACKAGES) \
		--constraint constraints-oldest.txt
	touch $@

test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_VENV)/bin/python -m pytest -m "not slow and not gpu" --ignore tests/web --ignore tests/server \
		--numprocesses auto --dist worksteal

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

pictures: $(VENV)/.installed
	$(BIN)/python -m benchmarks.readme_pictures

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

# The site: the documents as they lie in the repository, so that their links hold, and below api/ the
# reference.
SITE ?= site
docs: pages reference

PAGES = build/pages
pages: $(VENV)/.installed
	rm -rf $(PAGES) && mkdir -p $(PAGES)
	tar cf - *.md LICENSE NOTICE docs examples integrations benchmarks/results | tar xf - -C $(PAGES)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(abspath $(SITE))

# The API reference, of every module from its docstrings; what pdoc cannot resolve is an error.
# No error: modules that a package brings and the list names as well, types in constructors that others
# generate, and hart.modules.utils, which is there to say why it cannot be imported.
MODULES = $(shell find hart -name '*.py' ! -name __main__.py | LC_ALL=C sort \
	| sed -e 's|/|.|g' -e 's|\.py$$||' -e 's|\.__init__$$||')
PDOC = $(BIN)/python -W error::UserWarning:pdoc.doc -W error::UserWarning:pdoc.doc_ast \
	-W ignore::UserWarning:pdoc.doc_types -W ignore::UserWarning:pdoc.extract \
	-W "ignore:Couldn't import hart.modules.utils" -m pdoc

reference: $(VENV)/.installed
	@$(PDOC) $(MODULES) '!hart.modules.utils' --output-directory $(SITE)/api
