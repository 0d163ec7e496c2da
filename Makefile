# mura: `make help` lists what there is to do.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
CONSTRAINTS := constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-oldest test-python lint format bench bench-quick gpu-check soak fuzz mutants clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## make .venv with everything in it (2 to 3 minutes, 6 GB)

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit("mura needs Python 3.11 or newer: make setup PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: setup ## the whole study on synthetic radiographs with a small network (3 to 5 minutes)
	@test -d demo/data/MURA-v1.1 || $(PY) -m mura.cli synth demo/data --patients 1000 --size 96 --balanced --valid-fraction 0.3
	@$(PY) sweep.py experiment=demo launcher.workers=2 studies_dir=demo/studies data.root=demo/data data.cache_dir=demo/cache

test: setup ## all tests, the slow ones too
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: setup ## the tests for the daily round, without those that train for real (under 2 minutes)
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not slurm" --ignore=tests/end_to_end

test-oldest: ## all tests on the oldest versions that pyproject.toml allows (another 6 GB)
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

test-python: ## all tests on another Python: make test-python PYTHON=python3.13 (another 6 GB)
	$(MAKE) test VENV=.venv-$(notdir $(PYTHON))

lint: setup ## style and types
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

format: setup ## format the code
	$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

bench: setup ## how fast it is, each figure a ratio against a peer (25 minutes)
	$(PY) -m benchmarks

bench-quick: setup ## the same, shorter and rougher, without the large networks and the study
	$(PY) -m benchmarks --quick

gpu-check: ## all that needs a CUDA card, with this machine's own PyTorch (about 10 minutes; 1 minute without a card)
	@$(PYTHON) -c 'import importlib.util, sys; sys.exit(None if importlib.util.find_spec("torch") else "gpu-check takes the PyTorch of this machine, and $(PYTHON) has none: make gpu-check PYTHON=... names the Python that has it")'
	$(PYTHON) -m venv .venv-gpu
	$(PYTHON) -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' > "$$(.venv-gpu/bin/python -c 'import site; print(site.getsitepackages()[0])')/machine.pth"
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check -e .
	.venv-gpu/bin/python tests/gpu_check.py

soak: setup ## kill runs at 50 random moments; each must end as an undisturbed one (3 to 5 minutes)
	$(PY) tests/soak.py --kills 50 --seed 0

fuzz: setup ## mutated pictures, folders, checkpoints, settings, full disks: a result or a sentence (15 minutes)
	$(PY) tests/fuzz.py --minutes 15 --seed 0

mutants: setup ## plant small faults in the core; its tests must notice 95 % of a sample (20 minutes)
	$(PY) tests/mutants.py --minutes 20 --seed 0

clean: ## remove what was made here: demo, runs, studies, caches of the tools (not .venv)
	rm -rf demo runs studies multirun build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
