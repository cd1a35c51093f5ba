# Thin: every line here is a command that one could type.

# A static program without libraries: glibc's static archive, no position-independent code to relocate at start.
# Naming the target keeps these flags away from build scripts, and this build apart from `cargo test`'s.
HOST     = $(shell rustc -vV | sed -n 's/^host: //p')
STATIC   = RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static"
BUILT    = target/$(HOST)/release
PROGRAMS = -p bowline-plugins -p bowline-cli -p bowline-daemon

.PHONY: help demo test bench bench-throughput build build-arm64 image docs install lint fuzz manifests

help:
	@echo 'make demo     a node with pods, then clusters of two and three nodes; the host stays untouched'
	@echo 'make test     set-up, build, lint, every test'
	@echo 'make bench    ADD and DEL beside the reference plug-ins; Services, beside kube-proxy if KUBE_PROXY names it; rewrites'
	@echo '              the figures in README.md; a thousand nodes'
	@echo 'make build    target/release/bowline, bowlined and target/cni/<plug-in>, static'
	@echo 'make image    target/image/*.tar: OCI images of it all, without and with iptables'
	@echo 'make docs       the lists of options in docs/configuration.md, from the code'
	@echo 'make manifests  conf/rendered, of the rest of conf/'
	@echo 'make install  the plug-ins into $$(CNI_BIN), bowline and bowlined into $$(BIN)'
	@echo 'make fuzz     every fuzz target for a minute'
	@echo 'make lint     rustfmt and clippy; make build-arm64 cross-builds'

build:
	$(STATIC) cargo build --release --locked --target $(HOST) $(PROGRAMS)
	mkdir -p target/release
	cp -f $(BUILT)/bowline $(BUILT)/bowline-cni $(BUILT)/bowlined target/release/
	target/release/bowline-cni install target/cni --force

demo:
	scripts/setup demo
	$(MAKE) --no-print-directory build
	target/release/bowline demo $(ARGS)
	$(if $(ARGS),,target/release/bowline demo --nodes 2 --mode vxlan)
	$(if $(ARGS),,target/release/bowline demo --nodes 3 --mode cross-subnet)

# Everything, from nothing: this is what CI runs.
test:
	scripts/setup test
	$(MAKE) --no-print-directory build lint
	cargo test --locked --workspace --no-fail-fast

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

# QUICK=1 for a coarse answer in a minute, ONLY='portmap' for one row, PODS=1000 for one size, ITSELF=1 for our suite
# beside itself: these leave README.md alone. KUBE_PROXY=/path/kube-proxy measures Services beside it too (twenty minutes
# more), ALL=1 leaves out no row however long it takes.
bench:
	scripts/setup bench
	$(MAKE) --no-print-directory build
	cargo bench --locked -p bowline-overlay --bench nodes
	cargo bench --locked -p bowline-lab --bench crowd
	cargo bench --locked -p bowline-lab --bench image
	cargo bench --locked -p bowline-lab --bench services -- $(if $(QUICK),--quick) $(if $(ALL),--all)
	$(if $(QUICK),,cargo run --release --locked -p bowline-proxy --example scale -- 1000 4 --backend nftables,ipvs)
	cargo bench --locked -p bowline-lab --bench verbs -- $(if $(QUICK),--quick) $(if $(ONLY),--only '$(ONLY)') $(if $(PODS),--pods $(PODS)) $(if $(ITSELF),--itself)

# Pod to pod across nodes beside the same path made with ip(8). QUICK=1 and ONLY=vxlan as above; EXPLAIN=1 tells what
# each single thing costs or gains.
bench-throughput:
	scripts/setup bench
	$(MAKE) --no-print-directory build
	cargo bench --locked -p bowline-lab --bench throughput -- $(if $(QUICK),--quick) $(if $(ONLY),--only '$(ONLY)') $(if $(EXPLAIN),--explain)

# Two flavours, one file each: `ctr -n k8s.io image import` and `docker load` take them.
image: build
	scripts/image target/image/bowline.tar
	scripts/image --iptables target/image/bowline-iptables.tar

# The lists of options in docs/configuration.md.
docs:
	UPDATE_GOLDEN=1 cargo test --locked -p bowline-tests --test configuration

# conf/rendered is what kustomize makes of conf/overlays and conf/cleanup.
manifests:
	UPDATE_GOLDEN=1 cargo test --locked -p bowline-tests --test manifests rendered

CNI_BIN ?= /opt/cni/bin
BIN     ?= /usr/local/bin
# What `make build` left; needs no Rust. Refuses to overwrite another project's plug-ins.
install:
	target/release/bowline-cni install $(CNI_BIN)
	install -m 0755 target/release/bowline target/release/bowlined target/release/bowline-cni $(BIN)/

fuzz:
	scripts/fuzz

# For another architecture; the same sources, Debian's cross compiler.
build-arm64:
	scripts/build-arm64
