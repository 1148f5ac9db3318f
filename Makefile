# Everything a person needs: build, demo, test, install. `make help` lists the targets.

PREFIX  ?= /usr/local
CARGO   ?= cargo
OUT     := target/release
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# A database of yours for the demo; empty = the sample database, or one that the demo makes.
DB      ?=
# How many programs `make model` runs, in how many threads, from which seed on.
RUNS    ?= 200000
JOBS    ?= 1
FIRST   ?= 1

# How long `make fuzz` gives each target, and which ones (all if empty).
SECONDS ?= 600
TARGETS ?=

# Nothing that a user, a file or the network does may end in a panic: tests alone are free to.
NO_PANIC := $(foreach lint,unwrap_used expect_used panic unreachable todo unimplemented,-D clippy::$(lint))

.PHONY: help build demo test test-rust test-c sim test-crash test-interop lint bench bench-memory install examples static model fuzz \
  miri deps clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build target/release/libturso_sync.{so,a}, turso-sync-server and turso-sync
	$(CARGO) build --release --features server

demo: build ## Two C replicas sync through the bundled server (DB=path takes your database)
	@sh tests/scripts/demo.sh "$(DB)"

test: deps test-rust test-c test-crash test-interop ## All tests; installs what they need
	@sh tests/scripts/summary.sh

test-rust: ## Unit, property, integration, header and symbol tests
	@sh tests/scripts/counted.sh rust $(CARGO) test --features server --no-fail-fast

test-c: build ## C contract tests and examples, under AddressSanitizer and valgrind
	@sh tests/scripts/counted.sh c sh tests/scripts/c_tests.sh

sim: export SIM_RUNS ?= 1000
sim: ## Simulate replicas, network and disks (SIM_RUNS=1000 SIM_STEPS=300; SIM_SEED=n tells one run)
	@$(if $(SIM_SEED),SIM_RUNS=1 SIM_STORY=1) $(CARGO) test --features server --test sim -- --nocapture nothing_is_lost

test-crash: build ## kill -9 of a writing, pushing, pulling C program (KILLS=200)
	@sh tests/scripts/counted.sh crash python3 tests/scripts/crash_loop.py

test-interop: build ## Official clients (Python, JavaScript) and ours on one server
	@sh tests/scripts/counted.sh interop sh tests/interop/run.sh

model: ## Random programs on replicas against plain SQLite, with one seed each (RUNS=200000 JOBS=1 FIRST=1)
	MODEL_RUNS=$(RUNS) MODEL_JOBS=$(JOBS) MODEL_FIRST=$(FIRST) \
	  $(CARGO) test --release --features server --test model -- --test-threads=1

fuzz: ## Fuzz decoders, files, the server and the C ABI (SECONDS=600 each; TARGETS="record c_abi"); needs nightly Rust
	@sh tests/scripts/fuzz.sh $(SECONDS) $(TARGETS)

miri: ## Run the pure modules under Miri; needs nightly Rust
	@sh tests/scripts/miri.sh

lint: ## Format and lint; outside tests nothing may panic
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets --features server -- -D warnings
	$(CARGO) clippy --lib --bins --features server -- -D warnings $(NO_PANIC)

bench: ## Ratios against plain SQLite and the raw disk
	$(CARGO) bench --features server

bench-memory: ## Peak memory of processes that sync 1 GB and 200,000 rows (MEMORY_MB=1000 MEMORY_ROWS=200000)
	MEMORY_MB=$(or $(MEMORY_MB),1000) MEMORY_ROWS=$(or $(MEMORY_ROWS),200000) \
	  $(CARGO) test --release --features server --test memory -- --nocapture a_large_database

deps: ## Install what the tests need and the machine lacks (Debian packages, a Python environment)
	@sh tests/scripts/deps.sh

examples: build ## The C examples, against the build tree
	$(MAKE) -C c-examples INCLUDE=../include LIBDIR=../$(OUT)

static: build ## A static library that exposes only our symbols
	@sh tests/scripts/static.sh $(OUT)/libturso_sync.a $(OUT)/libturso_sync_static.a

install: build static ## Install headers, libraries, pkg-config file and server under PREFIX
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/bin
	install -m 644 include/turso.h include/turso_sync.h $(DESTDIR)$(PREFIX)/include/
	install -m 755 $(OUT)/libturso_sync.so $(DESTDIR)$(PREFIX)/lib/libturso_sync.so.0
	ln -sf libturso_sync.so.0 $(DESTDIR)$(PREFIX)/lib/libturso_sync.so
	ln -sf libturso_sync.so.0 $(DESTDIR)$(PREFIX)/lib/libturso_sync_sdk_kit.so
	install -m 644 $(OUT)/libturso_sync_static.a $(DESTDIR)$(PREFIX)/lib/libturso_sync.a
	install -m 755 $(OUT)/turso-sync-server $(OUT)/turso-sync $(DESTDIR)$(PREFIX)/bin/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' tests/scripts/turso_sync.pc.in \
	  > $(DESTDIR)$(PREFIX)/lib/pkgconfig/turso_sync.pc

clean: ## Remove what was built
	$(CARGO) clean
	$(MAKE) -C c-examples clean
