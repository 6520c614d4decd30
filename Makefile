# Each command makes its own virtual environment and installs what it needs. Another Python: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN = $(VENV)/bin
# An environment belongs to the folder it was made in: a copied tree must not test the tree it was copied from.
HERE := $(shell pwd | cksum | cut -d ' ' -f 1)
MADE = $(VENV)/.made-$(HERE)
EXTRA = $(VENV)/.with-$(HERE)

.PHONY: help demo test check bench format reference clean
.SECONDARY:

help:
	@echo "make demo    a service killed bare and alive guarded, side by side (about 90 s)"
	@echo "make test    the test suite                  (more for pytest: make test ARGS='-k rules')"
	@echo "make check   format, lint, types, walls, documentation examples"
	@echo "make bench   the measurements behind the README, into benchmarks/results/"
	@echo "make format  put the code into its format;  make reference  write docs/reference/ anew"

demo: $(EXTRA)-demo
	$(BIN)/python -m memguard demo $(ARGS)

# What measures a real kernel has the machine for itself; all else runs on every core. pytest says 5 for "no test".
test: $(EXTRA)-test
	@part() { echo "--- $$*"; $(BIN)/python -m pytest "$$@" $(ARGS); }; \
	part -n logical -m "not real"; quick=$$?; part -m real; real=$$?; \
	test $$quick$$real != 55 && { test $$quick = 0 || test $$quick = 5; } && { test $$real = 0 || test $$real = 5; }

bench: $(EXTRA)-bench
	@failed=; for script in $$(grep -l '__main__' benchmarks/*.py); do \
	  echo "--- $$script"; $(BIN)/python $$script $(ARGS) || failed="$$failed $$script"; done; \
	test -z "$$failed" || { echo "make bench failed in:$$failed" >&2; exit 1; }

# Keeps on after a failure, so that one run tells all of it. verifytypes looks at the Python that is first on PATH.
check: $(EXTRA)-dev
	@failed=; \
	step() { name=$$1; shift; echo "--- $$name"; "$$@" || failed="$$failed $$name"; }; \
	export PYRIGHT_PYTHON_IGNORE_WARNINGS=1 PATH="$$PWD/$(BIN):$$PATH"; \
	step format $(BIN)/python -m ruff format --check .; \
	step lint $(BIN)/python -m ruff check .; \
	step mypy $(BIN)/python -m mypy memguard tests docs; \
	step pyright $(BIN)/python -m pyright tests/typing; \
	step verifytypes $(BIN)/python -m pyright --ignoreexternal --verifytypes memguard; \
	step walls $(BIN)/lint-imports; \
	step docstrings $(BIN)/python -m pytest -q --doctest-modules memguard; \
	step pages $(BIN)/python -m pytest -q -p no:doctest README.md docs; \
	test -z "$$failed" || { echo "make check failed in:$$failed" >&2; exit 1; }

format: $(EXTRA)-dev
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix-only .

reference: $(EXTRA)-test
	$(BIN)/python docs/make_reference.py

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "memguard needs Python 3.11 or newer, and '$(PYTHON)' is not: $$($(PYTHON) --version 2>&1 | head -n 1)." >&2; \
	  echo "Name one that is: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(EXTRA)-%: $(MADE) pyproject.toml
	$(BIN)/python -m pip install -qq --editable '.[$*]'
	@touch $@

clean:
	rm -rf .venv .venv-ci build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
