# Each command makes its own virtual environment and installs what it needs. Another Python: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN = $(VENV)/bin
# An environment belongs to the folder it was made in: a copied tree must not test the tree it was copied from.
HERE := $(shell pwd | cksum | cut -d ' ' -f 1)
MADE = $(VENV)/.made-$(HERE)
EXTRA = $(VENV)/.with-$(HERE)
# Each test process, and each that a test starts, would compile some thousand modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help ready demo test check bench corpus gauntlet soak docs format reference clean
.SECONDARY:

help:
	@echo "make demo    a service killed bare and alive guarded, side by side (about 90 s)"
	@echo "make test    the test suite                  (more for pytest: make test ARGS='-k rules')"
	@echo "make check   format, lint, types, walls, documentation examples"
	@echo "make bench   the measurements behind the README, into benchmarks/results/"
	@echo "make docs    the documentation as a site, into build/docs/"
	@echo "make gauntlet  one service under fifteen hostile loads: bare, guarded, and by each peer's way"
	@echo "make soak    a guarded process under half an hour of faults, its promises held every second"
	@echo "make corpus  real leaks of released libraries, found and named, and the releases that mended them"
	@echo "make format  put the code into its format;  make reference  write docs/reference/ anew"

demo: $(EXTRA)-demo
	$(BIN)/python -m memguard demo $(ARGS)

# Tests under a real limit mostly wait, so two at a time leave each a core; all else keeps every core busy, and what
# walks the whole heap does so in processes that hold little. pytest says 5 for "no test".
test: $(EXTRA)-test
	@ran=; failed=; \
	part() { echo "--- $$*"; $(BIN)/python -m pytest "$$@" $(ARGS); \
	  case $$? in 0) ran=yes ;; 5) ;; *) failed=yes ;; esac; }; \
	part -n logical -m "not real" --heap=large; part -n logical -m "not real" --heap=small; \
	part -n 2 --dist loadfile -m real; \
	test -n "$$ran" -a -z "$$failed"

# The environment of `make test`, without running it.
ready: $(EXTRA)-test

bench: $(EXTRA)-bench
	@failed=; for script in $$(grep -l '__main__' benchmarks/*.py); do \
	  echo "--- $$script"; $(BIN)/python $$script $(ARGS) || failed="$$failed $$script"; done; \
	test -z "$$failed" || { echo "make bench failed in:$$failed" >&2; exit 1; }

# Real leaks of released libraries, each release in an environment of its own. Takes a quarter of an hour; CI leaves it out.
corpus: $(EXTRA)-leak-corpus
	$(BIN)/python benchmarks/corpus/run.py $(ARGS)

# The same service under hostile loads: bare, guarded, and by each peer's way. Takes half an hour on a quiet machine.
gauntlet: $(EXTRA)-gauntlet
	$(BIN)/python benchmarks/gauntlet/run.py $(ARGS)

# Half an hour of faults from a seeded schedule: make soak ARGS='--minutes 5 --seed 7'
soak: $(EXTRA)-gauntlet
	$(BIN)/python benchmarks/gauntlet/soak.py $(ARGS)

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
	step site $(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs; \
	test -z "$$failed" || { echo "make check failed in:$$failed" >&2; exit 1; }

format: $(EXTRA)-dev
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix-only .

docs: $(EXTRA)-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

reference: $(EXTRA)-test
	$(BIN)/python docs/make_reference.py

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "memguard needs Python 3.11 or newer, and '$(PYTHON)' is not: $$($(PYTHON) --version 2>&1 | head -n 1)." >&2; \
	  echo "Name one that is: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(EXTRA)-%: $(MADE) pyproject.toml
	$(BIN)/python -m pip install -qq --no-compile --editable '.[$*]'
	@touch $@

clean:
	rm -rf .venv .venv-ci .venv-corpus build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
