# Everything here needs Python 3.11 or 3.12 and make, and sets up what it uses.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
CONFIG ?= configs/demo.yaml
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Another package index for PyTorch alone, such as PyTorch's own for CPUs; empty: that of all other packages.
TORCH_INDEX ?=

# Measuring a GPU needs neither Ray nor MLflow: without a .venv, any python3 that has PyTorch will do.
PLAIN_PYTHON = $(if $(filter command environment,$(firstword $(origin PYTHON))),$(PYTHON),$(if $(wildcard $(BIN)/python),$(BIN)/python,python3))

.PHONY: setup demo test test-ray test-orchestrator test-rest test-slow coverage faults lint docs bench gpu gpu-dry clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or 3.12 is needed and was not found; set PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch torchvision)
	$(PIP) --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/infoaug run $(CONFIG)

# Processes side by side and tensors that are small: more threads would only get into each other's way.
test test-ray test-orchestrator test-rest test-slow coverage: export OMP_NUM_THREADS = 1

# Tests on Ray wait for processes some of the time: of the others, two halves run beside them.
HALF := tests/orchestrator tests/clusters tests/fuzz
test: setup
	@$(MAKE) --no-print-directory --jobs 3 test-ray test-orchestrator test-rest

test-ray: setup
	$(BIN)/python -m pytest tests/integration

test-orchestrator: setup
	$(BIN)/python -m pytest $(HALF)

test-rest: setup
	$(BIN)/python -m pytest --ignore=tests/integration $(addprefix --ignore=,$(HALF))

# All tests but the faults, with more examples and with what is marked slow.
test-slow: setup
	$(BIN)/python -m pytest -m "not faults" --hypothesis-profile full

# Lines and branches that the fast tests run, those in Ray's workers included.
coverage: export COVERAGE_ROOT = $(CURDIR)
coverage: setup
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

faults: setup
	$(BIN)/python -m pytest tests/faults -m faults --table docs/reliability.md

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The documentation as a site: site/index.html.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/.docs: .venv/.installed
	$(PIP) --editable '.[docs]'
	@touch $@

bench: setup
	$(BIN)/python benchmarks/twins_on_scenes.py
	$(BIN)/python benchmarks/mutual_information.py --plot docs/fig5.png
	$(BIN)/python benchmarks/pairs.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/tracking.py --ray
	$(BIN)/python benchmarks/long_video.py
	$(BIN)/python benchmarks/scaling.py --plot docs/scaling.png
	$(BIN)/python benchmarks/probes.py

# Checks and speeds on an NVIDIA GPU, into benchmarks/results/gpu.json; gpu-dry: the same at toy size on the CPU.
gpu:
	PYTHONPATH=. $(PLAIN_PYTHON) benchmarks/gpu.py

gpu-dry:
	PYTHONPATH=. $(PLAIN_PYTHON) benchmarks/gpu.py --dry

clean:
	rm -rf .venv outputs site mlruns mlflow.db .pytest_cache .ruff_cache .mypy_cache .coverage* *.egg-info
