# `make demo` runs the main job, `make test` the tests; both set everything up first, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-thorough test-lowest lint docs wheel-check results bench test-gpu bench-gpu clean

demo: $(STAMP)
	$(BIN)/unmask demo

test: $(STAMP)
	$(BIN)/python -m pytest

# The same tests with four to eight times as many random cases (forty minutes on two cores).
test-thorough: $(STAMP)
	UNMASK_THOROUGH=1 $(BIN)/python -m pytest

# The tests with the lowest versions that pyproject.toml allows, in an environment of their own.
# On Linux PyPI's torch is a build for CUDA of several gigabytes; on a machine without a GPU take the
# CPU build, from an index that has it (TORCH_INDEX) or of a version that you have (TORCH=2.13.0).
LOWEST := build/lowest
TORCH ?= $(shell sed -n 's/^torch==//p' constraints-lowest.txt)
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	sed 's/^torch==.*/torch==$(TORCH)/' constraints-lowest.txt > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt \
		--editable ".[cli,plot,train,tasks]" beartype hypothesis pytest-xdist
	$(LOWEST)/bin/python -m pytest tests

lint: $(STAMP)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The documentation site, in build/site; every warning is an error. Needs no network.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The wheel in an environment of its own: the core alone, then every command's help (one minute).
wheel-check: $(STAMP)
	$(BIN)/python tests/wheel.py build/wheel-check

# The tables and figures of docs/results, from the JSON that is checked in.
results: $(STAMP)
	$(BIN)/python experiments/results.py --figures
	$(BIN)/python experiments/curves.py

# Speed, memory and scaling (17 minutes): writes docs/performance.md.
bench: $(STAMP)
	$(BIN)/python -m benchmarks

# The tests of tests/gpu, which `make test` skips where there is no GPU.
test-gpu: $(STAMP)
	$(BIN)/python -m pytest -n 0 -m gpu tests/gpu

# Speed and memory on a GPU, of LLaDA-8B's and LLaDA-MoE's layouts with random weights: writes
# docs/results/gpu/bench.json. See docs/gpu.md.
bench-gpu: $(STAMP)
	$(BIN)/python -m benchmarks.gpu

# The constraints pin PyTorch's version. PyPI's build for Linux is for CUDA and takes 3 GB more than
# the CPU build, which TORCH_INDEX=https://download.pytorch.org/whl/cpu takes instead. Another version
# can be installed into .venv afterwards.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build
