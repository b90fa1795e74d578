# For people: `make demo` and `make test`. For everything else there is cargo.
.PHONY: demo test deny
.SILENT:

target := $(or $(CARGO_TARGET_DIR),target)

# KEEP=1 leaves the activated registries up; SCALE=4 makes them four times as large; LIVE=300 lets home live five minutes.
demo:
	.ci/need
	began=$$(date +%s); \
	[ -x $(target)/release/demo ] || echo 'building in release mode; the first time takes a few minutes'; \
	cargo build --release --locked --quiet -p legation -p legation-world --bins && \
	exec $(target)/release/demo --built $$(($$(date +%s) - began)) \
	  $(if $(SCALE),--scale $(SCALE)) $(if $(LIVE),--seconds $(LIVE))

test:
	.ci/need
	.ci/test

# Licences, sources, bans and advisories of the dependencies (deny.toml). Apart from `make test`: building the tool takes
# longer than the tests, and advisories need a network.
deny:
	command -v cargo-deny >/dev/null || cargo install --locked --quiet cargo-deny
	cargo deny $(if $(OFFLINE),--offline) check
