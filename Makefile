# For people: `make demo` and `make test`; `make test-long`, `make sim` and `make fuzz` for a night. For everything else there is cargo.
.PHONY: demo test test-long sim fuzz deny
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

# Every parser of foreign bytes, SECONDS each (10); TARGET=statement plays one.
fuzz:
	SECONDS_EACH=$(or $(SECONDS),10) TARGET=$(TARGET) .ci/fuzz

test:
	.ci/need servers
	.ci/test

# Many seeds of what `make test` does with a few. SEEDS=100 for more of them; SEED=7 for one alone.
test-long:
	.ci/need servers
	$(if $(SEEDS),LEGATION_SEEDS=$(SEEDS)) $(if $(SEED),LEGATION_SEED=$(SEED)) .ci/test long

# SEEDS=100000 simulates so many worlds, FROM=1000 begins there; SEED=17 shows one, event by event; ARGS="--unattended" and
# the like go to the program (docs/simulation.md).
sim:
	cargo run --release --locked --quiet -p legation-sim --features hooks --bin sim -- \
	  $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),10000) $(if $(FROM),--from $(FROM))) $(ARGS)

# Licences, sources, bans and advisories of the dependencies (deny.toml). Apart from `make test`: building the tool takes
# longer than the tests, and advisories need a network.
deny:
	command -v cargo-deny >/dev/null || cargo install --locked --quiet cargo-deny
	cargo deny $(if $(OFFLINE),--offline) check
