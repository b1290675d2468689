# make demo   simulate a run, take it through the whole chain, write the hits and the report
# make test   everything that CI tests (test-fast: unit and script tests alone)
# make plan   what is stale, why, and what it will cost: make plan TARGETS="r0050_hits.cxi r0051_hits.cxi"
# make process  as snakemake, after dealing with what a killed call left: make process PROFILE=slurm TARGETS=...
# make watch  process each run of the table when its files are complete: make watch PROFILE=slurm
# make lint   ruff, snakefmt, snakemake --lint
# make bench  the benchmarks
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
CORES ?= $(shell nproc)
# For plan, process and watch (docs/beamtime.md).
CONFIG ?=
PROFILE ?=
TARGETS ?=
SETTLE ?= 60
CONFIGURED := $(if $(CONFIG),--configfile $(CONFIG))
EXECUTION := $(if $(PROFILE),--profile $(PROFILE),--cores $(CORES))
LEFTOVERS := $(if $(filter yes,$(CANCEL)),--cancel) $(if $(filter yes,$(UNLOCK)),--unlock)

.PHONY: setup demo plan process watch test test-fast lint bench clean

setup: .venv/.ready

.venv/.ready: requirements.lock envs/setup.sh
	PYTHON="$(PYTHON)" bash envs/setup.sh
	touch $@

.venv/.test-tools: .venv/.ready envs/test_tools.sh
	bash envs/test_tools.sh
	touch $@

demo: setup
	$(BIN)/snakemake -c$(CORES) --configfile config/demo.yaml
	@echo
	@echo "Hits:       demo/scratch/r0050_hits.cxi"
	@echo "Dragonfly:  demo/scratch/emc/r0050.emc, r0050_det.h5, r0050_config.ini"
	@echo "Report:     demo/scratch/report/r0050.html"
	@echo "Truth:      demo/data/truth/spb_r0050.h5"

plan: setup
	@$(BIN)/python scripts/commands/plan.py $(TARGETS) $(if $(PROFILE),--profile $(PROFILE)) $(CONFIGURED)

process: setup
	@$(BIN)/python scripts/commands/process.py $(TARGETS) $(EXECUTION) $(LEFTOVERS) $(CONFIGURED)

watch: setup
	@$(BIN)/python scripts/commands/watch.py --settle $(SETTLE) $(if $(filter yes,$(RETRY)),--retry) $(EXECUTION) $(LEFTOVERS) $(CONFIGURED)

test: .venv/.test-tools
	$(BIN)/python -m pytest -n $(CORES) --dist worksteal tests

test-fast: .venv/.test-tools
	$(BIN)/python -m pytest -n $(CORES) --dist worksteal tests/unit tests/scripts

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

bench: setup
	@for file in $(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py)); do echo "# $$file"; $(BIN)/python $$file; done

clean:
	rm -rf demo .venv
