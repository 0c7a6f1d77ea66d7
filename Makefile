# One command builds the book, one tests it. Both work on a machine with only python3, make and git.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
SITE := _build/html
PAGES ?= tests/chapters book
# Options for pip that choose torch's build: make setup TORCH="--extra-index-url ADDRESS"
TORCH ?=
# As which processor (tests/processors.py): make test PROCESSOR=baseline
PROCESSOR ?=
# Threads of a process, where two run side by side: make test THREADS=2
THREADS ?= 1
AS = env OMP_NUM_THREADS=$(THREADS) OMP_WAIT_POLICY=PASSIVE \
  $(if $(PROCESSOR),$$($(BIN)/python -m tests.portable --env $(PROCESSOR)))

.PHONY: help setup book test test-pages quick portable test-tools test-book test-offline lint lab pdf check bench clean

help: ## say what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /|/' | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv: everything at the tested versions, pages opening as notebooks

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 15) else \
	  f"this is Python {v[0]}.{v[1]}; the book needs 3.11 to 3.14: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) \
	  -c constraints.txt -e ".[book,test]"
	$(BIN)/jupytext-config --settings-file .venv/etc/jupyter/labconfig/default_setting_overrides.json \
	  set-default-viewer markdown myst
	touch $(STAMP)

# One thread: on a busy machine torch's threads wait for each other, and a page takes much longer.
# A page that fails is marked on the site, which is whole all the same; the last lines name it.
book: $(STAMP) ## build the book: every page runs, a warning is an error
	@$(AS) $(BIN)/jupyter-book build . -n -W --keep-going || { \
	  echo; cat $(SITE)/reports/failed.txt 2>/dev/null; \
	  echo "The book was built with errors: see above, and $(SITE)/index.html"; exit 1; }
	HELPERS_REQUIRE_BOOK=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup tests/book/test_pages.py
	@echo "The book is built: open $(SITE)/index.html"

SIDE_BY_SIDE = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: $(STAMP) ## test the package: its examples, its numbers, its files, its rules
	$(AS) $(SIDE_BY_SIDE) $(addprefix --ignore=tests/,book chapters tools) helpers tests

test-pages: $(STAMP) ## run the pages cell by cell, unbuilt (PAGES=book/start runs a part)
	$(AS) $(SIDE_BY_SIDE) $(PAGES)

quick: $(STAMP) ## check style, layers and one test of each file, in a minute
	$(BIN)/ruff check -q .
	$(BIN)/ruff format --check -q .
	$(AS) $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --quick \
	  tests/unit tests/meta/test_layers.py tests/meta/test_doors.py

portable: $(STAMP) ## run all as other processors would, with 1 and 2 threads (ARGS="--help" says more)
	$(BIN)/python -m tests.portable $(ARGS)

test-tools: $(STAMP) ## test what tests and builds: the wheel, the recipes, the collector of pages, the margins
	$(AS) $(SIDE_BY_SIDE) tests/tools

# A reader has neither the data nor, perhaps, a network: then these pages run on simulated twins.
test-offline: $(STAMP) ## run the pages that show measured data without them
	env -u HELPERS_DATA_DIR HELPERS_OFFLINE=1 HELPERS_CACHE_DIR=$$(mktemp -d) $(MAKE) test-pages \
	  PAGES="$$(grep -lr --include='*.md' 'datasets\.load' book | sort | tr '\n' ' ')"

test-book: $(STAMP) ## test the built pages, in the browser too
	HELPERS_REQUIRE_BOOK=1 $(BIN)/python -m pytest tests/book

lint: $(STAMP) ## check style and types of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: book ## write the built pages as notebooks, numbers and all, into _build/notebooks
	$(BIN)/cmx export-notebooks _build/notebooks

pdf: book ## print the built book as one file, _build/book.pdf, by Chromium
	$(BIN)/python book/pdf.py

# With the numbers of the last `make notebooks` where there was one, else the sources.
lab: $(STAMP) ## open the pages as notebooks in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/$(or $(wildcard _build/notebooks),book)

# Every change meets three processors: tests and pages one without AVX, the book the one that is
# there, and pages without their data one with AVX2.
check: lint ## all that the continuous integration runs
	$(MAKE) test PROCESSOR=baseline
	$(MAKE) test-pages PROCESSOR=baseline
	$(MAKE) test-tools
	$(MAKE) book
	$(MAKE) test-offline PROCESSOR=avx2
	$(MAKE) test-book

bench: $(STAMP) ## time the solvers beside their peers; the records are in tests/benchmarks/records
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	# picasso asks for an older pandas, which none of what is timed touches
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps picassosr==0.11.3
	$(BIN)/python -m tests.benchmarks

clean: ## remove what was built; .venv stays
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find helpers tests book -name __pycache__ -type d -prune -exec rm -rf {} +
