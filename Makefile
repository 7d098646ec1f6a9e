# make demo, make test: everything from a fresh clone on; running them again is quick.
#   PYTHON=python3.12    the interpreter to build on (3.11 to 3.13)
#   TORCH_INDEX=URL      another package index for PyTorch alone, such as PyTorch's own index of CPU builds

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
READY := $(VENV)/.ready
PEERS := .venv-bench
PEERS_READY := $(PEERS)/.ready
BENCH ?= run
TEST_JOBS ?= 2
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-preferences demo-classify check test test-all realdata bench format clean

help:
	@echo "make demo       fine-tune a small bundled model, see that it became better (about 3 minutes), and teach it yourself"
	@echo "make demo-preferences"
	@echo "                then teach it what a person likes, from that person's choices alone (about 3 minutes)"
	@echo "make demo-classify"
	@echo "                a small encoder learns to sort notices from 60 labelled ones, beside TF-IDF (about a minute)"
	@echo "make test       the tests (a few minutes)"
	@echo "make test-all   the long tests as well"
	@echo "make check      style, types, import contracts, documents that are true"
	@echo "make bench      side by side with pinned peers, hours; BENCH=\"run sft-lora-8m\" for a part (docs/benchmarks.md)"
	@echo "make format     lay out the code"
	@echo "make clean      remove what was set up and built here"
	@echo "The first of these sets up $(VENV): about 1.8 GB, some minutes. PYTHON=... and TORCH_INDEX=... as in the Makefile."

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "$(PYTHON) is missing or not Python 3.11 to 3.13; name another: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV), once: about 1.8 GB on disk with a CPU build of PyTorch, 2 to 10 minutes."
	@echo "(On Linux pip may take a CUDA build, several GB more; TORCH_INDEX=URL names an index of CPU builds.)"
	@test -x $(BIN)/python && $(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	    "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	@TOMONI_PROGRAM=$(BIN)/tomoni $(BIN)/tomoni demo

demo-preferences: $(READY)
	@TOMONI_PROGRAM=$(BIN)/tomoni $(BIN)/tomoni demo --task preferences

demo-classify: $(READY)
	@TOMONI_PROGRAM=$(BIN)/tomoni $(BIN)/tomoni demo --task classify

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(PYTEST) -q tests/test_house.py

# side by side, a process a core: one thread each
test: $(READY)
	OMP_NUM_THREADS=1 $(PYTEST) -q -n $(TEST_JOBS) --dist worksteal -m "not slow and not realdata" --durations=5

test-all: $(READY)
	$(PYTEST) -q --durations=20

# needs TOMONI_REALDATA, the folder of public data sets
realdata: $(READY)
	$(PYTEST) -q -m "realdata and not slow" --durations=10

# the peers live in an environment of their own
$(PEERS_READY): bench/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	    "$$(grep '^torch==' bench/requirements.txt)"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	@touch $@

bench: $(READY) $(PEERS_READY)
	$(BIN)/python -m bench $(BENCH) --peers $(PEERS)/bin/python; status=$$?; $(BIN)/python -m bench report; exit $$status

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
