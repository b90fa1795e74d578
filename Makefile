# For people: `make demo`, `make test` and, for a night, `make test-long`. For everything else there is cargo.
.PHONY: demo test test-long
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

# Many seeds of what `make test` does with a few. SEEDS=100 for more of them; SEED=7 for one alone.
test-long:
	.ci/need servers
	$(if $(SEEDS),LEGATION_SEEDS=$(SEEDS)) $(if $(SEED),LEGATION_SEED=$(SEED)) .ci/test long
