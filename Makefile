# One entry point for people and for CI. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
# Tests and benchmarks keep what is expensive to make (a debootstrap root, a Python environment) here between runs.
export CLIPFS_FIXTURES ?= $(CARGO_TARGET_DIR)/fixtures

.PHONY: help demo test check fmt clippy doc deny bench fuzz deps

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/'

demo: deps ## build, then show the whole story on this machine (root, /dev/fuse)
	$(CARGO) build --release --locked -p clipfs -p controlplane -p credplugin -p fixtures
	@fixtures/scripts/demo.sh

test: deps ## install missing Debian packages, start the servers that are needed, run every test
	@fixtures/scripts/debian-root.sh
	@fixtures/scripts/python.sh
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-5} fixtures/scripts/fuzz.sh
	$(CARGO) test --workspace --locked

check: fmt clippy doc deny ## formatting, lints, docs, licences and bans

fmt:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fixtures/fuzz/Cargo.toml --check

clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --document-private-items

# The advisory database is fetched from the network: `cargo deny check advisories` is for machines that reach it.
deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check bans licenses sources

fuzz: deps ## fuzz the parsers of foreign bytes; FUZZ_SECONDS=20 each
	@fixtures/scripts/fuzz.sh

bench: deps ## measure beside the peers; BENCH=--quick for two minutes; see benches/README.md
	@fixtures/scripts/debian-root.sh
	$(CARGO) build --release --locked -p clipfs -p benches
	$(CARGO_TARGET_DIR)/release/benches --clipfs $(CARGO_TARGET_DIR)/release/clipfs --debian $(CLIPFS_FIXTURES)/debian.tar $(BENCH)
	$(CARGO_TARGET_DIR)/release/scheduling $(filter --quick,$(BENCH))

deps: ## install the Debian packages that tests, demo and benchmarks need
	@fixtures/scripts/deps.sh
