# Every target does its own set-up; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
PEERS_VENV := .venv-peers
PROTOS := $(wildcard proto/odradek/v1/*.proto)
SEEDS ?= 2000
MINUTES ?= 10
ROUNDS ?= 10
REPLICATION ?= 3
NODE_TESTS := tests/node tests/powerloss
PIP := -m pip install --disable-pip-version-check --no-input
# A dot for each package that pip fetches.
DOTS := awk '/^Collecting / { printf "."; fflush() } /^Installing / { printf " fetched, installing ..."; fflush() } END { print "" }'
# Two targets side by side: each line says whose it is. Ctrl-C is for those who write.
PREFIXED = $(if $(SIDE_BY_SIDE),2>&1 | (trap '' INT; exec sed -u 's/^/$@ | /'))

# The tests start hundreds of Python processes: an environment that forbids bytecode files makes each compile all it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test unit unit-node unit-rest cluster sim lint format proto proto-check bench bench-peers chaos powerloss lock clean check

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}'

$(VENV)/.ready: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Odradek needs Python 3.11 or newer; try: make PYTHON=python3.11 " if sys.version_info < (3, 11) else 0)'
	@echo "setup: once, about a minute"
	@echo "setup: 1/3 an empty environment, $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "setup: 2/3 what is needed: $$(grep -c == requirements/dev.lock) packages of requirements/dev.lock, each checked by its hash"
	@$(BIN)/python $(PIP) --require-hashes -r requirements/dev.lock | $(DOTS)
	@echo "setup: 3/3 odradek itself"
	@$(BIN)/python $(PIP) --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(PROTO_VENV)/.ready: requirements/proto.lock
	@echo "setup: the protobuf compiler, in $(PROTO_VENV) (once, a quarter of a minute)"
	@$(PYTHON) -m venv --clear $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python $(PIP) --require-hashes -r requirements/proto.lock | $(DOTS)
	@touch $@

$(PEERS_VENV)/.ready: $(VENV)/.ready requirements/peers.lock bench/peers/install.py
	@echo "setup: the other brokers and their clients, in $(PEERS_VENV) (once, a few minutes)"
	@$(PYTHON) -m venv --clear $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python $(PIP) --require-hashes -r requirements/peers.lock | $(DOTS)
	@# The product's environment, editable install included, behind the peers' clients.
	@$(BIN)/python -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' \
		> $$($(PEERS_VENV)/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/product.pth
	@$(PEERS_VENV)/bin/python -m bench.peers.install
	@touch $@

setup: $(VENV)/.ready ## Create the virtual environment from the lock file

demo: setup ## Carry 57,960 GPS points through a three-node cluster to two consumer groups
	@$(BIN)/python examples/demo.py

# Clusters wait for their processes and nodes for their disks while the rest computes: together they fill two cores.
test: setup ## Run every test: unit, in two parts, and cluster side by side
	@echo "test: 'make unit' and 'make cluster' side by side, a few minutes; each line says whose it is"
	@$(MAKE) --no-print-directory --jobs=3 --keep-going SIDE_BY_SIDE=yes cluster unit-node unit-rest

unit: setup ## Run the tests that start no cluster: units, properties, simulations
	@$(MAKE) --no-print-directory --jobs=2 --keep-going SIDE_BY_SIDE=yes unit-node unit-rest

unit-node: setup
	@nice $(BIN)/python -m pytest -q -m "not cluster" $(NODE_TESTS) $(PREFIXED)

unit-rest: setup
	@nice $(BIN)/python -m pytest -q -m "not cluster" $(NODE_TESTS:%=--ignore=%) $(PREFIXED)

cluster: setup ## Run the tests that start real controllers and nodes
	@$(BIN)/python -m pytest -q -m cluster $(PREFIXED)

sim: setup ## Run the simulator over many seeds: make sim SEEDS=10000, or one: make sim SEED=7
	@$(BIN)/python -m tests.simulation.run $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

chaos: setup ## Kill, pause, cut off and restart a real cluster under load: make chaos MINUTES=10 SEED=7
	@$(BIN)/python -m tests.chaos.run --minutes $(MINUTES) --replication $(REPLICATION) $(if $(SEED),--seed $(SEED))

powerloss: setup ## Cut the power of a cluster at random moments: make powerloss ROUNDS=20 SEED=7
	@$(BIN)/python -m tests.powerloss.run --rounds $(ROUNDS) --replication $(REPLICATION) $(if $(SEED),--seed $(SEED))

lint: setup proto-check ## Check format, style, types, import contracts and the contract's schema
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/buf lint proto

format: setup ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only .

proto: $(PROTO_VENV)/.ready ## Generate the protobuf code beside its .proto files
	@$(PROTO_VENV)/bin/python -m grpc_tools.protoc -I proto \
		--plugin=protoc-gen-mypy=$(PROTO_VENV)/bin/protoc-gen-mypy \
		--plugin=protoc-gen-mypy_grpc=$(PROTO_VENV)/bin/protoc-gen-mypy_grpc \
		--python_out=proto --grpc_python_out=proto --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto \
		$(PROTOS)

proto-check: proto
	@git diff --exit-code --stat -- proto/odradek/v1 || { echo "generated code differs: commit the result of 'make proto'"; exit 1; }

bench: setup ## Measure throughput and latency on this machine; JSON and a table
	@$(BIN)/python -m bench

bench-peers: $(PEERS_VENV)/.ready ## Measure other brokers beside ours: make bench-peers ONLY="nats kafka" SCALE=0.2 NODES=3
	@$(PEERS_VENV)/bin/python -m bench.peers $(if $(ONLY),--only $(ONLY)) $(if $(SCALE),--scale $(SCALE)) $(if $(NODES),--nodes $(NODES))

lock: ## Re-resolve requirements/*.lock (needs uv)
	@uv pip compile -q --upgrade pyproject.toml --extra server --extra cli --group dev --generate-hashes \
		--no-header --no-emit-index-url --no-annotate --python-version 3.11 -o requirements/dev.lock
	@uv pip compile -q --upgrade requirements/proto.in --generate-hashes \
		--no-header --no-emit-index-url --no-annotate --python-version 3.11 -o requirements/proto.lock
	@uv pip compile -q --upgrade requirements/peers.in -c requirements/dev.lock --generate-hashes \
		--no-header --no-emit-index-url --no-annotate --python-version 3.11 -o requirements/peers.lock

check: lint test ## What CI runs

clean: ## Remove what the targets made
	rm -rf $(VENV) $(PROTO_VENV) $(PEERS_VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis bench/results
