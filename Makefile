# Everything a newcomer or CI needs: Python 3.11 or newer, and make. PIP_* variables are honoured by pip itself.

SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin

export RAY_USAGE_STATS_ENABLED = 0

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz chaos draws check gpu-bundle clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## make the 24-image quickstart dataset in runs/quickstart
	$(BIN)/noisesmith run configs/quickstart.yaml

test: $(VENV)/.installed-dev  ## run the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --instafail $(PYTEST_OPTIONS)

fuzz: $(VENV)/.installed-dev  ## give 10,000 hostile configs and corpus files to plan and run
	$(BIN)/python -m tests.fuzz

chaos: $(VENV)/.installed-dev  ## kill real processes at the moments of 20 seeds
	$(BIN)/python -m pytest tests/chaos --chaos-seeds 20 --timeout 0

draws: $(VENV)/.installed-dev  ## draw the noises of recipes with the oldest NumPy that is allowed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/oldest-numpy numpy==2.0.0
	PYTHONPATH=build/oldest-numpy $(BIN)/python -m pytest tests/test_draws.py

check: $(VENV)/.installed-dev  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What tests/gpu needs next to torch, transformers, accelerate, pyarrow, typer and pytest, which a GPU machine has.
GPU_PYTHON ?= 3.12
GPU_PACKAGES := diffusers importlib_metadata zipp httpx2 httpcore2 truststore pydantic pydantic_core annotated-types \
	typing-inspection universal_pathlib pathlib-abc

gpu-bundle: $(VENV)/.installed-dev  ## wheels for tests/gpu/run on a machine with GPU_PYTHON, in gpu-bundle/
	rm -rf gpu-bundle
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: -c constraints.txt -d gpu-bundle \
		--python-version $(GPU_PYTHON) --implementation cp --platform manylinux_2_28_x86_64 \
		--platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 $(GPU_PACKAGES)
	du -sh gpu-bundle

clean:  ## remove the environment and every cache; runs/ stays
	rm -rf $(VENV) build gpu-bundle *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@'$(or $(PYTHON),false)' -c '$(SUPPORTED)' 2>/dev/null || { \
		echo 'noisesmith needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo 'cannot create $(VENV); on Debian and Ubuntu: apt-get install python3-venv' >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed
