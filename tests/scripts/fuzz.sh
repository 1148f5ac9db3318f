#!/bin/sh
# fuzz.sh SECONDS [TARGET...]: fuzzes each target for that long, one after the other; stops at the first finding.
# Installs what is missing: a nightly toolchain (the sanitizers are not in stable ones) and cargo-fuzz.
set -eu
seconds=$1
shift
have() { command -v "$1" > /dev/null 2>&1; }
cargo +nightly --version > /dev/null 2>&1 || rustup toolchain install nightly --profile minimal
have cargo-fuzz || cargo install --quiet --locked cargo-fuzz
have c++ || { echo "libFuzzer needs a C++ compiler: install g++ with your system's package manager" >&2; exit 1; }
cargo +nightly fuzz build
[ $# -gt 0 ] || set -- $(cargo +nightly fuzz list)
for target in "$@"; do
    echo "== $target"
    mkdir -p "fuzz/corpus/$target"
    # What the fuzzer finds goes into the first folder; the seeds stay as they are. Allocations are limited, because the
    # library promises that they are.
    cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- -max_total_time="$seconds" \
        -max_len=16384 -timeout=20 -rss_limit_mb=1024 -malloc_limit_mb=64 -print_final_stats=1 2>&1 |
        tee "fuzz/corpus/$target.log" | grep -E '^#[0-9]+.*(DONE|pulse)|stat::|panicked|ERROR|SUMMARY|Test unit' || true
    grep -q '^Done ' "fuzz/corpus/$target.log" || { echo "$target: a finding, see fuzz/corpus/$target.log" >&2; exit 1; }
done
echo "$# targets, $seconds seconds each, no finding"
