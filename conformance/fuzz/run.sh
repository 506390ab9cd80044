#!/bin/sh
# Builds and runs one fuzz target on a stable toolchain without cargo-fuzz: run.sh TARGET [SECONDS] [libFuzzer options]
set -eu
cd "$(dirname "$0")"
target=$1
seconds=${2:-30}
shift
[ $# -gt 0 ] && shift

# The flags cargo-fuzz sets. --target keeps them away from build scripts and proc macros.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Zsanitizer=address \
-Cdebug-assertions -Coverflow-checks -Ccodegen-units=1"
cargo build --release --target "$host" --bin "$target"

corpus=corpus/$target
if [ ! -d "$corpus" ]; then
    mkdir -p "$corpus"
    ./seed.py "$target" "$corpus"
fi
mkdir -p "artifacts/$target"
exec "${CARGO_TARGET_DIR:-target}/$host/release/$target" "$corpus" \
    -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" -timeout=10 "$@"
