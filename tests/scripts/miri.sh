#!/bin/sh
# Runs the unit tests of the pure modules under Miri, which finds undefined behaviour. SQLite and zstd are C, which it
# cannot run, so tests that call them are left out.
set -eu
cargo +nightly miri --version > /dev/null 2>&1 ||
    { rustup toolchain install nightly --profile minimal --component miri,rust-src; }
# Properties with fewer cases: Miri is some hundred times slower.
export PROPTEST_CASES="${PROPTEST_CASES:-16}" MIRIFLAGS="${MIRIFLAGS:--Zmiri-disable-isolation}"
cargo +nightly miri test --no-default-features --lib -- \
    protocol:: record:: io::queue io::operation engine::metadata engine::remote \
    --skip zstd --skip compressed
