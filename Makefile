# Each target sets itself up in .venv; nothing else needs to be installed first but make and CPython 3.11 or newer.
# `make test PYTEST_ARGS="-k journal"` hands arguments to pytest.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BOOTSTRAP = $(or $(PYTHON),$(error expected CPython 3.11 or newer as python3, got none; install it or run make PYTHON=...)) \
	-m tests.support.bootstrap
BIN = .venv/bin
PYTEST_ARGS ?=
SECONDS ?= 60
SEEDS ?= 1000

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cbor6 test-lowest test-tpm soak lint bench bench-links fuzz vectors clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## environment and system programs for demo and test
	@$(BOOTSTRAP) mosquitto mke2fs strace fusermount3 faketime softhsm2-util

demo: setup ## a signed release on its way to three gateways over broken links
	@$(BIN)/python -m tests.demo

test: setup ## the whole suite; PYTEST_ARGS goes to pytest
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-cbor6: ## the protocol's tests with cbor2 6, which cwt does not work with
	@$(BOOTSTRAP) --cbor6
	.venv-cbor6/bin/python -m pytest -m "not cwt" tests/protocol $(PYTEST_ARGS)

test-lowest: ## what rests most on other packages, with the lowest versions that are declared
	@$(BOOTSTRAP) --lowest softhsm2-util
	.venv-lowest/bin/python -m pytest -m "not packaging and not cwt" tests/test_packaging.py \
		tests/protocol/test_cbor.py tests/protocol/test_cose.py tests/protocol/test_documents.py \
		tests/protocol/test_vectors.py tests/device/commands tests/device/test_link.py \
		tests/bridge/test_pki.py tests/bridge/test_store.py tests/tokens $(PYTEST_ARGS)

test-tpm: setup ## a gateway whose key is in a TPM, with swtpm; docs/hardware-keys.md names the packages that it needs
	$(BIN)/python -m pytest tests/tokens/tpm.py $(PYTEST_ARGS)

soak: ## what is too long for the suite: every cut after every cut, SEEDS fleets and a tenth as many storms; an hour or two
	@$(BOOTSTRAP) mosquitto mke2fs strace fusermount3 softhsm2-util
	@$(BIN)/python -m tests.soak --seeds $(SEEDS)

lint: ## ruff, mypy --strict, import contracts
	@$(BOOTSTRAP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: ## throughput, memory and latency, as ratios to nginx and curl
	@$(BOOTSTRAP) mosquitto mke2fs nginx curl
	@$(BIN)/python -m tests.bench

bench-links: ## downloads over bad lines, as ratios to curl; needs root and /dev/net/tun, and half an hour
	@$(BOOTSTRAP) mosquitto mke2fs nginx curl ip nsenter
	@$(BIN)/python -m tests.bench.links

fuzz: ## hostile bytes for every decoder, SECONDS=60 shared among them; with atheris where it is installed
	@$(BOOTSTRAP)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

vectors: ## write tests/vectors anew
	@$(BOOTSTRAP)
	$(BIN)/python -m tests.vectors.generate

clean: ## remove environments, caches and build results
	rm -rf .venv .venv-cbor6 .venv-lowest .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf .demo .bench .bench-links dist protocol/dist device/dist broker_bridge/dist
	find protocol device broker_bridge tests -name __pycache__ -type d -prune -exec rm -rf {} +
