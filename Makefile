# `make` or `make help` lists what there is. PYTHON chooses the interpreter of a new environment, VENV its folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RAY := $(VENV)/ray
# One more than there are cores, as some wait for processes of their own; one thread each.
TESTERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TESTERS) --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help demo benchmark test pytest test-ray test-fast check format install clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY)  ## make the virtual environment with the tested versions

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)  ## train and compare FPN and EFPN on drawn signs (some 40 minutes on one CPU core; goes on where it stopped)
	$(BIN)/python train.py experiment=demo resume=true
	$(BIN)/python evaluate.py run=outputs/demo/seed0

benchmark: $(READY)  ## time, memory and multiply-adds of every model on this machine (BENCHMARK='what=training key=value ...' to choose)
	$(BIN)/python benchmark.py $(BENCHMARK)

test: $(READY)  ## lint, types and all tests, on TESTERS processes (default: one more than cores, four at most)
	$(MAKE) --jobs 2 check pytest test-ray

pytest: $(READY)
	$(PYTEST)

# Beside the environment, as Ray's launcher holds cloudpickle below 3 and joblib needs a newer one.
$(RAY)/.ready: $(READY)
	$(BIN)/python -m pip install --quiet --no-warn-conflicts --constraint constraints.txt --upgrade --target $(RAY) hydra-ray-launcher
	touch $@

test-ray: $(RAY)/.ready  ## the test of Ray's launcher, which goes into a folder of its own
	PYTHONPATH=$(RAY) $(BIN)/python -c 'import ray'
	PYTHONPATH=$(RAY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 0 tests/test_launchers.py -k 'other_processes and ray'

test-fast: $(READY)  ## without the tests that train, export, build every config or run a whole command
	$(PYTEST) -m 'not slow'

check: $(READY)  ## lint, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what tools left; outputs and data stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache build dist
