SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Cluster, image and installation build on each other; the speed comes from pytest's workers.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
WORKERS ?= auto
E2E_WORKERS ?= 5
N ?= 1000
SEED ?= 1
CHAOS_CLUSTER ?= 8
PYTEST_ARGS ?=
ONLY ?=
# Programs that tests run beside Python's: what Debian calls them, and the command that makes them needless.
UNIT_PACKAGES := prometheus:promtool
E2E_PACKAGES := prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager chromium:chromium
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest
# How long each test took, for the list at the end.
JUNIT := --junitxml=build/junit
CLUSTER_ROWS := cluster and not exhaustive
# By their first line, so that a new script is checked without being named here.
SHELL_SCRIPTS = $(shell grep -rlE '^\#(!.*\b(ba)?sh\b| shellcheck shell=)' .ci tools 2>/dev/null)

CHART := charts/trainingrun-operator
CHART_FILES := $(CHART)/files
CHART_CRDS := $(CHART_FILES)/crds

.PHONY: help bare plugin demo test check fix generate verify docs cluster cluster-down image install e2e exhaustive unit trainings chaos bench lock

# What make can do.
help:
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: cluster image install  ## Four real trainings ended in three ways, on a kind cluster
	@echo "demo: four trainings, each watched until its node is released"
	@$(BIN)/python tools/demo/demo.py

test: check bare cluster unit trainings image install e2e  ## Everything: check, the set-up on bare machines, unit tests, the docs' trainings, then the tests on a kind cluster
	@$(BIN)/python tools/slowest.py build/junit
	@echo "test: all passed"

check: $(READY) verify docs  ## Format, lint, types, layers, shell scripts, generated files, docs, commit subjects
	@tools/step "check: format" $(BIN)/ruff format --check --quiet .
	@tools/step "check: lint" $(BIN)/ruff check --quiet .
	@tools/step "check: types (a minute the first time)" $(BIN)/mypy --no-error-summary
	@tools/step "check: layers" $(BIN)/lint-imports --no-logo
	@tools/step "check: shell scripts" $(BIN)/shellcheck -x $(SHELL_SCRIPTS)
	@echo "check: what git ignores is in no commit"
	@tracked=$$(git ls-files --cached --ignored --exclude-standard 2>/dev/null || true); \
	[ -z "$$tracked" ] || { echo "check: tracked although ignored, git would write over what others have there: $$tracked" >&2; exit 1; }
	@echo "check: commit subjects"
	@tools/commit-subjects

fix: $(READY)  ## Format, and repair what the linter can
	@echo "fix: format and lint"
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format --quiet .

generate: $(READY)  ## Write every generated file: crds/, alerts/, dashboards, the chart's README, manifests/install.yaml, docs/reference/
	@echo "generate: crds/, and the chart's copy"
	@$(BIN)/python -m trainingrun_operator.api.crd crds
	@rm -f $(CHART_CRDS)/*.yaml && cp crds/*.yaml $(CHART_CRDS)/
	@echo "generate: alerts and dashboards"
	@$(BIN)/python tools/monitoring/generate.py
	@echo "generate: $(CHART)/README.md"
	@$(BIN)/python tools/chart_readme.py $(CHART) >.venv/fresh && mv .venv/fresh $(CHART)/README.md
	@echo "generate: manifests/install.yaml"
	@tools/manifest >.venv/fresh && mv .venv/fresh manifests/install.yaml
	@echo "generate: docs/reference/"
	@$(BIN)/python tools/docs/reference.py docs/reference

verify: $(READY)  ## Fail when a generated file is not what its source says
	@echo "verify: crds/ is what the models say"
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(BIN)/python -m trainingrun_operator.api.crd "$$fresh" >/dev/null; \
	diff -ru crds "$$fresh" && diff -ru crds $(CHART_CRDS) || { echo "verify: run 'make generate' and commit crds/ and $(CHART_CRDS)/" >&2; exit 1; }
	@echo "verify: alerts and dashboards are what their sources say"
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(BIN)/python tools/monitoring/generate.py "$$fresh"; \
	(for each in alerts/prometheus.yaml alerts/grafana.yaml $(CHART_FILES)/{alerts,dashboards}; do diff -ru "$$each" "$$fresh/$$each" || exit; done) || \
	{ echo "verify: run 'make generate' and commit alerts/ and the chart's files/" >&2; exit 1; }
	@echo "verify: the chart's README says what its values say"
	@$(BIN)/python tools/chart_readme.py $(CHART) | diff -u $(CHART)/README.md - || { echo "verify: run 'make generate' and commit $(CHART)/README.md" >&2; exit 1; }
	@echo "verify: manifests/install.yaml is the chart"
	@tools/manifest | diff -u manifests/install.yaml - || { echo "verify: run 'make generate' and commit manifests/install.yaml" >&2; exit 1; }
	@echo "verify: docs/reference/ is what it is about"
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(BIN)/python tools/docs/reference.py "$$fresh" >/dev/null; \
	diff -ru docs/reference "$$fresh" || { echo "verify: run 'make generate' and commit docs/reference/" >&2; exit 1; }

docs: $(READY)  ## Build docs/ into build/site; a dead link fails it
	@NO_MKDOCS_2_WARNING=1 tools/step "docs: build/site (15 s)" $(BIN)/mkdocs build --strict --quiet

cluster: $(READY)  ## Start the kind cluster (idempotent)
	@echo "cluster: starting kind"
	@tools/cluster/cluster up

cluster-down:  ## Remove the kind cluster
	@echo "cluster-down: removing kind"
	@tools/cluster/cluster down

image: $(READY)  ## Build the operator's image and load it into the cluster
	@echo "image: building and loading"
	@tools/image

install: $(READY)  ## Install the operator into the cluster
	@echo "install: operator into the cluster"
	@tools/install

e2e: $(READY)  ## Tests on the running cluster, with the installed operator
	@tools/debian $(E2E_PACKAGES)
	@echo "e2e: tests on the cluster"
	@$(PYTEST) -m "$(CLUSTER_ROWS)" -n $(E2E_WORKERS) --dist loadscope $(JUNIT)/cluster.xml $(PYTEST_ARGS)
	@[ -n "$(PYTEST_ARGS)" ] || { echo "e2e: what the API server wrote down of the operator"; $(PYTEST) -m audit --durations=0 $(JUNIT)/audit.xml; }

exhaustive: CLUSTER_ROWS := cluster
exhaustive: cluster image install e2e  ## The tests on the kind cluster, with every effect of a stop, and every fault between agent and store: before an issue that touches them is resolved
	@$(PYTEST) -m "exhaustive and not cluster" -n $(WORKERS) $(JUNIT)/exhaustive.xml
	@for each in build/outputs/effects-of-a-{stop,release}.txt; do cat "$$each"; done
	@echo "exhaustive: all passed"

# Part of `test`; alone it is the quick loop while writing code.
unit: $(READY)
	@tools/debian $(UNIT_PACKAGES)
	@echo "unit: tests without a cluster"
	@$(PYTEST) -m "not cluster and not audit and not trainings and not bare and not exhaustive" -n $(WORKERS) --cov --cov-report= $(JUNIT)/unit.xml $(PYTEST_ARGS)
	@echo "unit: every branch of core and api is covered"
	@$(BIN)/coverage report --include='*/trainingrun_operator/core/*,*/trainingrun_operator/api/*' --fail-under=100

plugin:  ## Install kubectl-trainingrun for you (~/.local/bin), with what requirements.lock names
	@tools/step "plugin: kubectl-trainingrun (10 s)" tools/uv tool install --force --python "$$(command -v $(PYTHON))" \
		--constraints requirements.lock --build-constraints requirements-dev.lock .
	@echo "plugin: $$(tools/uv tool dir --bin)/kubectl-trainingrun"

bare: $(READY)  ## The set-up itself, as on a fresh Debian 12, a fresh Debian 13 and with this machine's Python
	@echo "bare: the set-up on machines that never saw it"
	@$(PYTEST) tests/integration/setup -n $(WORKERS) $(JUNIT)/bare.xml $(PYTEST_ARGS)

trainings: $(READY)  ## The docs' training scripts on the real PyTorch, Hugging Face, Lightning, JAX and Keras, on CPU
	@tools/frameworks/frameworks >/dev/null
	@echo "trainings: the docs' scripts, run, stopped and gone on with; real writers, killed at every operation of a save"
	@$(PYTEST) tests/integration/trainings -n $(WORKERS) --dist worksteal $(JUNIT)/trainings.xml $(PYTEST_ARGS)

chaos: $(READY) $(if $(filter-out 0,$(CHAOS_CLUSTER)),cluster image install)  ## N terminations in memory and CHAOS_CLUSTER real ones, under faults drawn from SEED
	@cd tests && ../$(BIN)/python -m chaos --runs $(N) --seed $(SEED) --cluster $(CHAOS_CLUSTER)

bench: $(READY)  ## Uploads and restores beside s5cmd, rclone and others, the exporter, hostile runs; in parts: ONLY=upload, ONLY=restore/small
	@cd tests && ../$(BIN)/python -m bench --only "$(ONLY)"

# What a *.in file names, with all that it brings. No index address goes in.
lock:
	@echo "lock: $(LOCKS)"
	@tools/uv pip compile pyproject.toml --output-file requirements.lock --python-version 3.11 $(LOCK_FLAGS)
	@tools/uv pip compile pyproject.toml --group dev --constraint requirements.lock --output-file requirements-dev.lock --python-version 3.11 $(LOCK_FLAGS)
	@tools/uv pip compile $(FRAMEWORKS)/requirements.in --override $(FRAMEWORKS)/overrides.txt --output-file $(FRAMEWORKS)/requirements.lock --python-version 3.13 $(LOCK_FLAGS)
	@tools/uv pip compile $(FRAMEWORKS)/tensorflow.in --no-deps --output-file $(FRAMEWORKS)/tensorflow.lock --python-version 3.13 $(LOCK_FLAGS)
	@for each in tools/cluster/python tools/cluster/cloud/requirements tools/bench/requirements; do \
		tools/uv pip compile $$each.in --output-file $$each.lock --python-version 3.11 $(LOCK_FLAGS); \
	done
	@for each in $(PROGRAMS); do tools/uv pip compile $$each.in --no-deps --output-file $$each.lock --python-version 3.11 $(LOCK_FLAGS); done
	@! grep -n '://' $(LOCKS)

FRAMEWORKS := tools/frameworks
# Packages that hold a program: what else they name is for others.
PROGRAMS := tools/bootstrap tools/cluster/go tools/cluster/helm
LOCKS := requirements.lock requirements-dev.lock $(FRAMEWORKS)/requirements.lock $(FRAMEWORKS)/tensorflow.lock tools/cluster/python.lock tools/cluster/cloud/requirements.lock \
	tools/bench/requirements.lock \
	$(PROGRAMS:=.lock)
LOCK_FLAGS := --quiet --universal --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock' $(UPGRADE)

$(READY): requirements-dev.lock pyproject.toml tools/bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=python3.x" >&2; exit 1; }
	@echo "set-up: .venv from requirements-dev.lock, half a minute the first time"
	@PYTHON="$(PYTHON)" tools/uv --version >/dev/null
	@[ -x $(BIN)/python ] || tools/uv venv --quiet --clear --python "$$(command -v $(PYTHON))" .venv
	@tools/step "set-up: packages" tools/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock
	@tools/step "set-up: this package" tools/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps --editable .
	@touch $@
