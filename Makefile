# `make verify` reads only, and is what a change must pass; `make fix` writes. Nothing but cargo, git and sh is asked for.

CARGO ?= cargo
DENY_WARNINGS = -D warnings -D clippy::incompatible_msrv

.PHONY: verify check fmt clippy test test-no-default loom features doc purity licences mutants-apply fuzz libfuzzer fix bench

verify: test check

# All but the tests that README names, which CI runs from README.
check: fmt mutants-apply clippy test-no-default loom features doc purity licences

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- $(DENY_WARNINGS)
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- $(DENY_WARNINGS)
	for crate in tidegate tidegate-tokio tidegate-smol; do \
		$(CARGO) clippy -p $$crate --all-targets --no-default-features --locked -- $(DENY_WARNINGS) || exit 1; \
	done

test:
	$(CARGO) test --workspace

# The core is whole without its fetcher.
test-no-default:
	$(CARGO) test -p tidegate --no-default-features --locked

# The models of the synchronisation, each under every interleaving (of one, those with four preemptions); apart from other builds.
loom:
	RUSTFLAGS="--cfg tidegate_loom" $(CARGO) test -p tidegate --no-default-features --lib --target-dir target/loom \
		--locked loom_tests

features:
	.ci/each-feature.sh

# The libraries only: the program has the name of the core.
doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --lib --no-deps --all-features --locked

purity:
	.ci/purity.sh

# The one further tool; CI installs it.
licences:
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check licenses bans sources; \
	else echo "skipped: cargo-deny is not installed (cargo install cargo-deny --locked)"; fi

# That the faults still fit the code; whether the suites find them is for .ci/mutants.sh, which takes its time.
mutants-apply:
	for fault in .ci/mutants/*.patch; do git apply --check $$fault || exit 1; done

# The properties of what reads bytes from outside, for about ten minutes.
CASES ?= 100000000
fuzz:
	PROPTEST_CASES=$(CASES) $(CARGO) test --release -p tidegate --lib --locked h1::tests

# What reads bytes from outside, by libFuzzer: each target for so many seconds.
FUZZ_SECONDS ?= 20
libfuzzer:
	.ci/fuzz.sh $(FUZZ_SECONDS)

fix:
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

bench:
	$(CARGO) bench -p tidegate-benches
