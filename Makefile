# make demo   set up and classify the bundled clip live
# make test   set up and run all tests but the long ones, which it names
# make check  formatting, lint and types
# make faults  break it: kills, signals, full disks, lost cameras; 10 minutes, or less with FAULTS_MOMENTS=10
# make fuzz   damaged input of every kind: 1,000,000 inputs, or FUZZ_INPUTS=10000
# make soak   a faulty camera with every output: 1 hour, or SOAK_MINUTES=5
# make audit  compare the installed packages with the known vulnerabilities; needs a network
# make gpu-check  on a machine with an NVIDIA GPU: the CUDA tests and benchmark, at most 8 minutes

FAULTS_MOMENTS ?= 50
FUZZ_INPUTS ?= 1000000
SOAK_MINUTES ?= 60
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core-installed
TEST := $(VENV)/.test-installed

.PHONY: demo test check faults fuzz soak audit gpu-check clean

demo: $(CORE)
	$(BIN)/stream-ann live demo

# two at a time, with a thread each: many tests wait for cameras, browsers and processes
test: $(TEST)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(TEST)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

faults: $(TEST)
	$(BIN)/python -m benchmarks.faults --moments $(FAULTS_MOMENTS)

fuzz: $(TEST)
	OMP_NUM_THREADS=1 FUZZ_INPUTS=$(FUZZ_INPUTS) $(BIN)/python -m pytest -n 2 -m long --timeout=0 tests/fuzz

soak: $(TEST)
	OMP_NUM_THREADS=1 SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m pytest -m long --timeout=0 tests/soak

audit: $(TEST)
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --local --skip-editable

# with the Python that has torch: machines with GPUs mostly bring their own
gpu-check:
	$(PYTHON) -m scripts.gpu_check

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stream-ann needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(CORE): pyproject.toml $(VENV)/bin/pip
	@echo "Installing (torch is large: this takes a few minutes the first time) ..."
	$(BIN)/pip install --quiet -e .
	@touch $@

$(TEST): pyproject.toml $(VENV)/bin/pip
	@echo "Installing (torch is large: this takes a few minutes the first time) ..."
	$(BIN)/pip install --quiet -e '.[test]'
	@touch $@ $(CORE)
