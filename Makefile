# One command for each thing a contributor does; `make` alone lists them.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help base setup plugins languages build demo test test-servers soak fuzz bench fmt lint ci clean

# Set by .ci/run: cargo then refuses to change a lock file.
LOCKED ?=

# Those that depend on what a server does.
BROKER_TESTS = $(addprefix --test ,handling failing surviving outages failover admin connecting gates commands later custody settling scripts returning trimming healing operating replaying repeats everywhere order reaching model waiting quarantine steering)

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What the product, its demo and its Rust plugins need.
base:
	@scripts/setup

setup: base ## Install what is missing: the WebAssembly target, a Redis binary, other languages' tools
	@scripts/toolchains

plugins: ## Build the plugins to plugins/target/wasm32-wasip2/release
	cd plugins && cargo build $(LOCKED) --release --target wasm32-wasip2

languages: setup ## Build those in Python, JavaScript and C to the same place
	@$(MAKE) --no-print-directory -C plugins

build: ## Build the host to target/release/tidegate (minutes the first time)
	cargo build $(LOCKED) --release

demo: base plugins build ## Run the order pipeline on a private Redis
	./target/release/tidegate demo

test: setup plugins languages ## Run all tests: the plugins' own, then the host's on real servers
	cd plugins && cargo test $(LOCKED) --no-fail-fast
	cargo test $(LOCKED) --release --workspace --no-fail-fast

test-servers: base plugins ## Run the broker's tests on older and newer servers, which pip downloads
	@scripts/servers
	@scripts/on-servers cargo test $(LOCKED) --release --no-fail-fast $(BROKER_TESTS)

soak: base plugins ## Random faults with fresh seeds, for TIDEGATE_SOAK_MINUTES (30)
	cargo test $(LOCKED) --release --test soak

fuzz: base plugins ## Fuzz what comes from outside, each target for TIDEGATE_FUZZ_MINUTES (5); needs a nightly compiler
	@scripts/fuzz

bench: base plugins ## Measure throughput and latency
	cargo bench $(LOCKED) --bench throughput

fmt: ## Format all Rust code
	cargo fmt --all
	cd plugins && cargo fmt --all

lint: ## Check formatting, clippy and rustdoc, of host and plugins
	cargo fmt --all --check
	cd plugins && cargo fmt --all --check
	cd plugins && cargo clippy $(LOCKED) --release --all-targets -- -D warnings
	cd plugins && RUSTDOCFLAGS="-D warnings" cargo doc $(LOCKED) --release --no-deps
	cargo clippy $(LOCKED) --release --workspace --all-targets -- -D warnings
	cargo clippy $(LOCKED) --release --test soak -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(LOCKED) --release --workspace --no-deps

ci: ## What must hold before a change is merged: lint and test
	@.ci/run

clean: ## Remove everything that was built
	cargo clean
	cd plugins && cargo clean
	rm -rf fuzz/target
