# For people: `make demo` and `make test`. For everything else there is cargo.
.PHONY: demo test
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
	.ci/need servers
	.ci/test
