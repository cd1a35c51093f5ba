# Thin: every line here is a command that one could type.

# A static program without libraries: glibc's static archive, no position-independent code to relocate at start.
# Naming the target keeps these flags away from build scripts, and this build apart from `cargo test`'s.
HOST    := $(shell rustc -vV | sed -n 's/^host: //p')
STATIC  := RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static"
BUILT   := target/$(HOST)/release
PROGRAMS := -p bowline-plugins -p bowline-cli

.PHONY: help demo test bench build build-arm64 install lint setup fuzz

help:
	@echo 'make demo     a node with pods in namespaces of its own; the host stays untouched'
	@echo 'make test     set-up, build, lint, every test'
	@echo 'make bench    ADD and DEL beside the reference plug-ins; rewrites the figures in README.md'
	@echo 'make build    target/release/bowline and target/cni/<plug-in>, static'
	@echo 'make install  the plug-ins into $$(CNI_BIN), bowline into $$(BIN)'
	@echo 'make fuzz     every fuzz target for a minute'

build:
	$(STATIC) cargo build --release --locked --target $(HOST) $(PROGRAMS)
	mkdir -p target/release
	cp -f $(BUILT)/bowline target/release/bowline
	$(BUILT)/bowline-cni install target/cni --force

demo: build
	target/release/bowline demo $(ARGS)

# Everything, from nothing: this is what CI runs.
test: setup build lint
	cargo test --locked --workspace

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

# QUICK=1 for a coarse answer in a minute.
bench: setup build
	cargo bench --locked -p bowline-lab --bench verbs $(if $(QUICK),-- --quick)

# The Debian packages that the tests and benches use: installed when root, named otherwise.
setup:
	scripts/setup

CNI_BIN ?= /opt/cni/bin
BIN     ?= /usr/local/bin
install: build
	$(BUILT)/bowline-cni install $(CNI_BIN)
	install -m 0755 target/release/bowline $(BIN)/bowline

fuzz:
	scripts/fuzz

build-arm64:
	scripts/build-arm64
