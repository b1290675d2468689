# make demo   simulate a run, take it through the whole chain, write the hits and the report
# make test   everything that CI tests (test-fast: unit and script tests alone)
# make lint   ruff, snakefmt, snakemake --lint
# make bench  the benchmarks
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
CORES ?= $(shell nproc)

.PHONY: setup demo test test-fast lint bench clean

setup: .venv/.ready

.venv/.ready: requirements.lock
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
