# The commands of every day. `make` alone lists them.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help up test chaos nats lint fmt clippy doc deny machete tools bench

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## build, start NATS, gateway and dispatcher, and deliver a first notification
	$(CARGO) build --workspace --bins
	$(TARGET)/debug/peal up

# Tests start programs of other crates, which Cargo would not build for them. Asking for programs and tests in one
# go gives both the same features, so that nothing is compiled twice.
# What needs a tool that is missing here says so, and is counted at the end.
test: export PEAL_SKIPPED = $(abspath $(TARGET))/tmp/skipped.txt
test: nats ## run every test, against real nats-server processes
	@mkdir -p $(TARGET)/tmp && : >$(TARGET)/tmp/skipped.txt
	$(CARGO) build --workspace --bins --tests
	$(CARGO) test --workspace
	@cat $(TARGET)/tmp/faults.md
	@printf '\nskipped: %s\n' "$$(wc -l <$(TARGET)/tmp/skipped.txt)"; sort $(TARGET)/tmp/skipped.txt | uniq -c

# What `make test` does to regions for minutes, for hours. Under the table stands what replays each random run.
chaos: export PEAL_FAULT_KILLS_NOTIFICATIONS ?= 1000000
chaos: export PEAL_FAULT_KILLS_TIMES ?= 1000
chaos: export PEAL_FAULT_KILLS_TEXTS ?= 1
chaos: export PEAL_FAULT_CLUSTER_NOTIFICATIONS ?= 100000
chaos: export PEAL_FAULT_CLUSTER_TIMES ?= 40
chaos: export PEAL_FAULT_PAUSE_SECONDS ?= 30
chaos: export PEAL_FAULT_DAMAGE_NOTIFICATIONS ?= 100000
chaos: export PEAL_FAULT_DAMAGE_TIMES ?= 50
chaos: export PEAL_FAULT_HOSTS_NOTIFICATIONS ?= 40000
chaos: export PEAL_FAULT_HOSTS_TIMES ?= 16
chaos: export PEAL_FAULT_BOTH_ROUNDS ?= 10
chaos: export PEAL_FAULT_CUT_SECONDS ?= 60 600
chaos: export PEAL_FAULT_CUT_RATE ?= 300
chaos: export PEAL_FAULT_DOWN_SECONDS ?= 600
chaos: export PEAL_FAULT_DOWN_RATE ?= 200
chaos: nats ## kill, pause, cut and starve regions for hours; PEAL_FAULT_SEED=N replays a run
	$(CARGO) build --workspace --bins --tests
	$(CARGO) test --workspace --test faults -- --nocapture --test-threads=1
	@cat $(TARGET)/tmp/faults.md

lint: fmt clippy doc deny machete ## run every check that needs no server

bench: nats ## measure this machine with an optimised build
	$(CARGO) build --release --workspace --bins
	$(TARGET)/release/peal bench

fmt: ## check the formatting
	$(CARGO) fmt --all --check

clippy: ## check the code, tests included; warnings are errors
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# A module's page may name its private parts: whoever reads it there has the source at hand.
doc: ## check the documentation; warnings are errors
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps

deny: ## check dependencies: advisories, licences, bans, sources
	.ci/tools cargo-deny
	.ci/deny

machete: ## look for dependencies that nothing uses
	.ci/tools cargo-machete
	cargo-machete

tools: ## install what `make deny` and `make machete` run
	.ci/tools

nats:
	@deploy/install-nats >/dev/null
