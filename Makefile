# Everything this project does, by name. `make` alone lists it.
# Needs only make and Python 3.11 to 3.13. Every target does the setup that it needs, once.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
JOB    ?= overnight

BIN := $(VENV)/bin
# Every file is checked against the SHA-256 in locks/ (locks/write.py), except PyTorch's CPU build, of which only the version
# is pinned: it comes from PyTorch's own index. antlr4 is published as source only. Building anything else from source would
# mean that a wheel is missing; this way, pip reports that at once. Compiling 20,000 modules that are never imported would
# take longer than the download, so only the imported ones are compiled at the end.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all:
LOCKED := $(PIP) --no-binary antlr4-python3-runtime --no-build-isolation --use-pep517 --no-deps --require-hashes --requirement
COMPILE := $(BIN)/python -P -c 'from sweeper.track.mlflow import set_environment; set_environment(); import mlflow.tracking, sweeper.sweep.run, sweeper.train.worker, sweeper.analysis.report'
# Empty: compiled modules are kept even where Python is told not to write them, as in many containers. Otherwise every process
# of every sweep and of every test would compile what it imports again, which takes several seconds.
export PYTHONDONTWRITEBYTECODE :=
# The package to install: this checkout. tests/installed_wheel.py sets a wheel instead.
PACKAGE ?= --editable .
# Four processes are enough: each loads PyTorch, and the run is never shorter than its longest test.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal --quiet
# Without an NVIDIA driver, PyTorch's CPU build saves gigabytes. An empty TORCH_INDEX= takes the build of the package index.
TORCH_INDEX ?= $(shell [ "$$(uname -sm)" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null 2>&1 \
                 && echo https://download.pytorch.org/whl/cpu)
IMAGE ?= sweeper:latest
# The requirements of these searches conflict with ours and with each other, so each has an environment of its own.
PEER_VENVS ?= .venv-peers
PEERS := $(patsubst benchmarks/replay/peers/%.txt,$(PEER_VENVS)/%/.installed,$(wildcard benchmarks/replay/peers/*.txt))

.DEFAULT_GOAL := help
.PHONY: help setup sweep plan confirm train overnight schedule unschedule status report ui fresh-clone bench bench-short bench-long bench-growth bench-controller gpu-check calibration tables portfolio replay replay-short chaos chaos-short chaos-mutants chaos-mutants-short crash-points chaos-simulate simulate test test-slow test-browser test-all wheel-check lint format types ci constraints audit image dist clean distclean
.DELETE_ON_ERROR:

help:  ## List all targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Options: ARGS='dataset=trec budget.trials=8' passes arguments on; PYTHON=python3.12 sets the interpreter."

setup: $(VENV)/.installed  ## Create the virtual environment, once; takes a minute or two

sweep: $(VENV)/.installed  ## Search LoRA hyperparameters for three datasets, or ARGS='dataset=trec budget.trials=8'
	@$(BIN)/sweeper run $(ARGS)

plan: $(VENV)/.installed  ## Compute memory, disk space, time and price of a sweep before it runs; ARGS='dataset=trec plan.gpu_gb=24'
	@$(BIN)/sweeper plan $(ARGS)

confirm: $(VENV)/.installed  ## Train the best settings of a sweep again with fresh seeds; ARGS='<sweep> confirm.max_share=2'
	@$(BIN)/sweeper confirm $(ARGS)

train: $(VENV)/.installed  ## Train the best setting of a sweep once more on all rows; ARGS='<sweep>/<study> --rows all'
	@$(BIN)/sweeper train $(ARGS)

overnight: $(VENV)/.installed  ## Search from 22:00 to 07:00 every night, as long as this terminal stays open
	@$(BIN)/sweeper jobs run $(JOB) --wait $(ARGS)

schedule: $(VENV)/.installed  ## Install the nightly search as a systemd timer or in cron; JOB=mine, ARGS=--dry-run
	@$(BIN)/sweeper jobs install $(JOB) $(ARGS)

unschedule: $(VENV)/.installed  ## Undo make schedule
	@$(BIN)/sweeper jobs remove $(JOB)

status: $(VENV)/.installed  ## Show the progress of a sweep, also while it runs
	@$(BIN)/sweeper status $(ARGS)

simulate: $(VENV)/.installed  ## Replay searches on recorded trials to plan a budget; ARGS='<sweep> budget.trials=24'
	@$(BIN)/sweeper simulate $(ARGS)

report: $(VENV)/.installed  ## Write the reports of a sweep, also while it runs, and print the path of report.html
	@$(BIN)/sweeper report $(ARGS)

ui: $(VENV)/.installed  ## Open curves, comparisons and adapters in the browser (MLflow)
	@$(BIN)/sweeper ui $(ARGS)

bench: $(VENV)/.installed-bench  ## Compare with Optuna + Trainer and Ray Tune, under 50 minutes; ARGS='memory limit' picks sections
	@$(BIN)/python benchmarks/run.py $(ARGS)

bench-long: $(VENV)/.installed-bench  ## Run the long benchmarks, three hours more: five seeds, parity of scores, a language model
	@$(BIN)/python benchmarks/run.py --long $(ARGS)

bench-short: $(VENV)/.installed-bench  ## Check in three minutes that every benchmark runs; the numbers mean nothing
	@$(BIN)/python benchmarks/run.py --short $(ARGS)

bench-growth: $(VENV)/.installed  ## Measure how memory, open files, threads and disk use grow over 1,000 trials
	@$(BIN)/python benchmarks/long_run.py $(ARGS)

bench-controller: $(VENV)/.installed  ## Measure CPU, waiting times and memory of the controller over 10,000 trials on fake workers
	@$(BIN)/python benchmarks/controller.py $(ARGS)

gpu-check: $(VENV)/.installed-dev $(VENV)/.installed-bench  ## Check everything that needs a GPU in ten minutes, and write a report to send back; ARGS='--only curve'
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)

calibration: $(VENV)/.installed  ## Count wrong verdicts of simulated confirmations and searches, about six minutes; ARGS='--studies 50'
	@$(BIN)/python benchmarks/calibration.py $(ARGS)
	@$(BIN)/python benchmarks/calibration_effects.py $(ARGS)

tables: $(VENV)/.installed  ## Train what the tables of real trials lack, hours if they are empty; ARGS='trec sms_spam' picks some
	@$(BIN)/python -m benchmarks.tables.make $(ARGS)
	@$(BIN)/python -m benchmarks.tables.describe

portfolio: $(VENV)/.installed  ## Compute the shipped warm starts from the tables of real trials; ARGS=--replay measures them, minutes
	@$(BIN)/python -m benchmarks.portfolio $(ARGS)

replay: $(VENV)/.installed-bench $(PEERS)  ## Compare the search with Optuna, Syne Tune, SMAC3 and PriorBand on recorded trials, 40 minutes
	@$(BIN)/python -m benchmarks.replay.run --peers $(PEER_VENVS) $(ARGS)

replay-short: $(VENV)/.installed-bench $(PEERS)  ## Check in two minutes that every search can be compared; the numbers mean nothing
	@$(BIN)/python -m benchmarks.replay.run --peers $(PEER_VENVS) --short $(ARGS)

chaos: $(VENV)/.installed  ## Kill sweeps 210 times at seeded moments and count what was lost, 15 minutes; ARGS='--seed 7'
	@$(BIN)/python chaos/run.py $(ARGS)

chaos-mutants: $(VENV)/.installed-dev  ## Plant bugs, one at a time, and check that the fault tests catch each by name, nine minutes; ARGS=no_curves
	@$(BIN)/python chaos/mutation.py $(ARGS)

chaos-mutants-short: $(VENV)/.installed-dev  ## Do the same with half of the bugs, under three minutes
	@$(BIN)/python chaos/mutation.py --short $(ARGS)

chaos-short: $(VENV)/.installed  ## Do the same with one small sweep and one event of each kind, under two minutes
	@$(BIN)/python chaos/run.py --short $(ARGS)

crash-points: $(VENV)/.installed  ## Kill a small sweep at each operation on its disk, fail each write, cut the power; ARGS='--every 20'
	@$(BIN)/python -m chaos.crash_points $(ARGS)

chaos-simulate: $(VENV)/.installed  ## Simulate 10,000 small sweeps with faults and judge their histories, about six minutes; ARGS='--seed 7'
	@$(BIN)/python chaos/simulator.py --seeds 10000 $(ARGS)

test: $(VENV)/.installed-dev  ## Run the quick tests: offline, on the CPU, four to five minutes on two cores; ARGS='-k search' picks some
	@$(PYTEST) -m "not slow and not network and not browser" $(ARGS)

test-slow: $(VENV)/.installed-dev  ## Run the slow tests: whole sweeps, killed processes, servers; about six minutes
	@$(PYTEST) -m "slow and not network" --timeout 300 $(ARGS)

test-browser: $(VENV)/.installed-browser  ## Open reports in Debian's Chromium, one minute; skipped without (apt install chromium)
	@$(BIN)/python -m pytest -m browser --timeout 300 $(ARGS)

test-all: $(VENV)/.installed-dev  ## Run every test, also those that fetch models and datasets; about eleven minutes
	@$(PYTEST) -m "" --timeout 300 $(ARGS)

wheel-check: $(VENV)/.installed-dev  ## Build the wheel, install it elsewhere, run a small sweep with it; one to three minutes
	@$(BIN)/python tests/installed_wheel.py

fresh-clone:  ## Run the README's commands in a fresh clone without an environment, about three minutes
	@$(PYTHON) tests/fresh_clone.py

lint: $(VENV)/.installed-dev  ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## Fix style and format where possible
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.installed-dev  ## Check types
	@$(BIN)/mypy

ci:  ## Run everything that a change must pass, about 20 minutes on two cores
	@.ci/run

constraints: pyproject.toml  ## Pin the newest versions that pyproject.toml allows, and the hashes of their files
	@rm -rf .venv-constraints
	@$(PYTHON) -m venv .venv-constraints
	@.venv-constraints/bin/python -m pip install --quiet --no-compile --editable '.[dev,browser,bench]'
	@{ grep '^#' constraints.txt; .venv-constraints/bin/python -m pip freeze --exclude-editable | sed -E 's/\+(cpu|cu[0-9]+)$$//'; } > constraints.new
	@mv constraints.new constraints.txt
	@.venv-constraints/bin/python -m pip install --quiet uv
	@.venv-constraints/bin/python locks/write.py
	@rm -rf .venv-constraints

audit:  ## Look for known vulnerabilities of the pinned packages; skipped where no database can be reached
	@$(PYTHON) locks/audit.py --skip-offline

image: jobs/base-image.txt  ## Build the container image on the base image whose digest jobs/base-image.txt has; IMAGE=name:tag
	@docker build --build-arg BASE_IMAGE="$$(cat jobs/base-image.txt)" --file jobs/Dockerfile --tag $(IMAGE) .

dist: $(VENV)/.installed-dev  ## Build wheel and sdist into dist/
	@$(BIN)/python -m hatchling build --directory dist

clean:  ## Remove caches; keeps the environment, outputs and downloads
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './$(PEER_VENVS)/*' -prune -exec rm -rf {} +

distclean: clean  ## Remove caches and the environments; keeps outputs and downloads
	@rm -rf $(VENV) $(PEER_VENVS)

# The stamps are written last, so an interrupted setup is resumed.
$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard locks/*.txt)
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 11) <= v < (3, 14); ok or sys.exit(f"Python 3.11, 3.12 or 3.13 is required, but {sys.executable} is {v[0]}.{v[1]}. Choose another interpreter: make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing. On Debian or Ubuntu, install it: sudo apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV). This happens once and takes a minute or two."
	@$(PYTHON) -m venv $(VENV)
	@$(LOCKED) locks/build.txt
	@$(LOCKED) locks/base.txt
	@if [ -z "$(TORCH_INDEX)" ]; then $(LOCKED) locks/torch.txt; else \
	  $(PIP) --constraint constraints.txt --no-deps --retries 1 --timeout 20 --index-url $(TORCH_INDEX) torch 2>/dev/null \
	  || { echo "$(TORCH_INDEX) cannot be reached; taking PyTorch from the package index."; \
	       $(PIP) --constraint constraints.txt torch; }; fi
	@$(PIP) --no-deps --no-build-isolation $(PACKAGE)
	@$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for tests, lint and types."
	@$(LOCKED) locks/dev.txt
	@touch $@

$(VENV)/.installed-browser: $(VENV)/.installed-dev
	@echo "Installing what the tests of report.html need: Playwright and axe."
	@$(LOCKED) locks/browser.txt
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@echo "Installing what the benchmarks need: Ray, accelerate, matplotlib."
	@$(LOCKED) locks/bench.txt
	@touch $@

# A peer that cannot be installed is left out, and the page says so. The one that needs PyTorch takes ours.
$(PEER_VENVS)/%/.installed: benchmarks/replay/peers/%.txt | $(VENV)/.installed
	@echo "Installing a peer of the search: $*."
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $< \
	  && { ! grep -q '^gpytorch' $< || $(BIN)/python -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
	       > "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"; } \
	  && touch $@ || { rm -rf $(@D); echo "$* cannot be installed; the comparison leaves it out."; }

# The digest of the base image is learnt once. Delete the file to take a newer image.
jobs/base-image.txt:
	@docker pull --quiet python:3.13-slim
	@docker image inspect --format '{{index .RepoDigests 0}}' python:3.13-slim > $@
