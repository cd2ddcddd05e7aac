# All verbs of the project. On a machine with Python 3.11 or newer and make, `make run` starts the service and
# `make test` runs the tests; both set up .venv first.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
NEEDS_PYTHON = @test -n "$(PYTHON)" || { echo "emitd needs Python 3.11 or newer; name it with PYTHON=..." >&2; exit 1; }
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# As an environment variable it also holds for what builds the package.
PINNED := PIP_CONSTRAINT=.ci/constraints.txt
PROTO_VENV := .venv-proto
PROTO_BIN := $(PROTO_VENV)/bin
PROTO_READY := $(PROTO_VENV)/.ready

.PHONY: help setup proto lint fix type test test-slow bench bench-quick weigh build run demo

help:
	@echo "make run        start the service with logging_config.yml"
	@echo "make demo       show the whole service in a quarter of a minute, with its own data"
	@echo "make test       run the tests (about six minutes on two cores)"
	@echo "make test-slow  run the slow tests: crashes, forks, faults, other languages (about eighteen)"
	@echo "make lint       check style, imports, protos, and that the stubs are up to date"
	@echo "make type       check types"
	@echo "make fix        fix style, and write the help texts into the documents"
	@echo "make proto      generate the stubs from protos/"
	@echo "make bench      measure what a record costs"
	@echo "make bench-quick  the same in three minutes, with fewer turns"
	@echo "make weigh      count lines, files, settings, commands, RPCs, dependencies; compare with TAG=... or SINCE=..."
	@echo "make build      build the wheel into dist/"

setup: $(READY)

$(READY): pyproject.toml .ci/constraints.txt
	$(NEEDS_PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PINNED) $(BIN)/python -m pip install --quiet --editable '.[server,cli,webhook,postgres,uvloop,access,dev]'
	@touch $@

$(PROTO_READY): pyproject.toml
	$(NEEDS_PYTHON)
	test -x $(PROTO_BIN)/python || $(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_BIN)/python -m pip install --quiet --editable '.[proto]'
	@touch $@

run: $(READY)
	$(BIN)/emitd serve --config logging_config.yml

demo: $(READY)
	$(BIN)/emitd demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY) $(PROTO_READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY) $(PROTO_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(PROTO_BIN)/python protos/tool.py lint
	$(PROTO_BIN)/python protos/tool.py check

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tests/support/docs/command_reference.py --write

type: $(READY)
	$(BIN)/mypy

proto: $(PROTO_READY)
	$(PROTO_BIN)/python protos/tool.py generate

bench: $(READY)
	$(PINNED) $(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python tests/benchmarks/bench_client.py
	$(BIN)/python tests/benchmarks/bench_records.py
	$(BIN)/python tests/benchmarks/bench_stages.py
	$(BIN)/python tests/benchmarks/bench_jobs.py
	$(BIN)/python tests/benchmarks/bench_watchers.py
	$(BIN)/python tests/benchmarks/bench_lines.py
	$(BIN)/python tests/benchmarks/bench_replicas.py
	$(BIN)/python tests/benchmarks/bench_audit.py
	$(BIN)/python tests/benchmarks/bench_verify.py

# Both event loops, three batch sizes, few turns. `make -s bench-quick | .venv/bin/python tests/benchmarks/cost_picture.py -`
# puts its output into docs/performance.md.
bench-quick: $(READY)
	@$(BIN)/python tests/benchmarks/bench_records.py --loops asyncio uvloop --batches 1 64 512 --rounds 3
	@$(BIN)/python tests/benchmarks/bench_stages.py
	@$(BIN)/python tests/benchmarks/bench_watchers.py --crowds 1000/1/20 --floods 0 --rounds 1

# Needs no packages. TAG may have * and ?; without TAG and SINCE it compares with the last tag.
weigh:
	$(NEEDS_PYTHON)
	@$(PYTHON) tests/support/docs/weigh.py $(if $(TAG),--tag '$(TAG)') $(if $(SINCE),--since '$(SINCE)')

build: $(READY)
	$(PINNED) $(BIN)/python -m build
