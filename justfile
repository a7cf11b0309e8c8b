# `just verify` only reads; `just fix` writes.

default:
    @just --list

# What CI runs.
verify:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --quiet -- -D warnings
    cargo test --workspace --quiet
    "${CARGO_TARGET_DIR:-target}/debug/sim" --minutes 2 --steps 20000
    if command -v cargo-deny >/dev/null; then cargo deny --log-level error check bans licenses sources; fi

# Formats, and mends what clippy can mend.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# The three-region demonstration.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Real processes under kills, pauses, cuts and full disks, judged for linearizability; needs root and namespaces.
linear *ARGS:
    cargo run --release -p tests --bin linear -- {{ARGS}}

# Fuzzes one parser of outside bytes; the targets are listed in tests/src/fuzz.rs. The fuzzer sets flags, which hide those of
# .cargo/config.toml: so they stand here. What it learns stays below target/; the corpus in the tree is small and kept by hand.
fuzz TARGET SECONDS="60":
    mkdir -p target/fuzz/{{TARGET}}
    RUSTFLAGS="--cfg tokio_unstable" cargo fuzz run --fuzz-dir tests/fuzz -s none {{TARGET}} target/fuzz/{{TARGET}} tests/fuzz/corpus/{{TARGET}} -- -max_total_time={{SECONDS}} -max_len=65536 -timeout=10

# Runs seeds of the simulation: `just sim --seeds 1000`, `just sim --minutes 5`, `just sim --seed 7`.
sim *ARGS:
    cargo run --release -p tests --bin sim -- {{ARGS}}

# The registry beside etcd (Debian: etcd-server).
bench-registry *ARGS:
    cargo build --release
    cargo run --release -p tests --bin bench-registry -- {{ARGS}}
