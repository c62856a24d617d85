# The commands of the project. `make` alone explains them; each sets up what it needs first.

CONFIG ?= simulated_ads
DATA ?=
REPLAY ?=
ENVIRONMENT := $(or $(UV_PROJECT_ENVIRONMENT),.venv)
PY := $(ENVIRONMENT)/bin/python
# Processes that tests run in, each with one thread and about 2 GB; a file's tests share a process.
WORKERS ?= 2
PYTEST = "$(PY)" -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Which part of the slow tests `make test` runs besides all others: none, or K/N such as 2/7.
SHARD ?=
# Every command of benchmarks/; `reproduce` wants a paper's name, so it runs by hand.
BENCHMARKS ?= $(filter-out reproduce steps.%,$(subst /,.,$(patsubst benchmarks/%.py,%,$(shell grep -rl __main__ --include=*.py benchmarks 2>/dev/null))))

# Any Python from 3.8 can run the set-up. `python3` may be a pyenv shim that leads nowhere.
FIND_PYTHON = for python in python3 /usr/bin/python3 /usr/local/bin/python3 python \
	"$$HOME"/.pyenv/versions/*/bin/python "$$HOME"/.local/share/uv/python/*/bin/python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1 && break; \
	python=; done; \
	test -n "$$python" || { echo "There is no Python 3 here: install CPython 3.10 or newer." >&2; exit 1; };

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format architecture lock bench-quick clean

help:  ## This list
	@echo "tfmtl: multi-task, multi-scene ranking, from raw rows to a pushed SavedModel."
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
		awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo
	@echo "Start here:          make demo"
	@echo "On real rows:        make demo CONFIG=hillstrom DATA=path/to/hillstrom"
	@echo "With a given Python: make setup TFMTL_PYTHON=/path/to/python"
	@echo "The environment is $(ENVIRONMENT)/; UV_PROJECT_ENVIRONMENT names another folder."

setup:  ## Find a Python, make the environment (nothing to do the second time)
	@$(FIND_PYTHON) "$$python" tools/bootstrap.py $(if $(TFMTL_PYTHON),--python "$(TFMTL_PYTHON)")

demo: setup  ## Run the main job: CONFIG=simulated_ads by default, DATA= and REPLAY= its folders
	@"$(PY)" -m pipeline.local_runner --config "$(CONFIG)" $(if $(DATA),--data "$(DATA)") \
		$(if $(REPLAY),--replay "$(REPLAY)")

test: lint  ## All checks: ruff, mypy, tests and doctests (of the slow ones, SHARD=2/7 or none)
	@$(PYTEST) $(if $(SHARD),--shard $(SHARD),-m "not slow")

test-slow: setup  ## All slow tests: whole pipelines, kills, large data; RECORD=1 notes their times
	@$(PYTEST) -m slow $(if $(RECORD),--record-seconds)

lint: setup  ## ruff and mypy alone
	@"$(PY)" -m ruff check .
	@"$(PY)" -m ruff format --check .
	@"$(PY)" -m mypy tfmtl components pipeline benchmarks

format: setup  ## Format the code and mend what ruff can mend
	@"$(PY)" -m ruff check --fix .
	@"$(PY)" -m ruff format .

architecture:  ## Draw docs/architecture.md anew from the imports
	@$(FIND_PYTHON) "$$python" tools/architecture.py

lock: setup  ## Remake requirements/ from setup.py; UPGRADE=1 takes newer versions
	@"$(PY)" tools/lock.py $(if $(UPGRADE),--upgrade)

bench-quick: setup  ## Every benchmark in the size for CI, failing where a target is missed
	@for name in $(BENCHMARKS); do \
		echo "benchmarks.$$name"; "$(PY)" -m benchmarks.$$name --quick --check || failed=1; \
	done; test -z "$$failed"

clean:  ## Remove caches and builds (the environment and the results of runs stay)
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
