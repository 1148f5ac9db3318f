#!/bin/sh
# miri.sh [TEST...]: runs the unit tests of the pure modules under Miri, which finds undefined behaviour. SQLite and zstd
# are C, which it cannot run, so tests that call them are left out, and one that makes some thousand texts. Some twenty
# minutes.
set -eu
cargo +nightly miri --version > /dev/null 2>&1 ||
    { rustup toolchain install nightly --profile minimal --component miri,rust-src; }
# Properties with fewer cases: Miri is some hundred times slower.
export PROPTEST_CASES="${PROPTEST_CASES:-8}" MIRIFLAGS="${MIRIFLAGS:--Zmiri-disable-isolation}"
[ $# -gt 0 ] || set -- protocol:: record:: io::control io::queue io::operation engine::metadata engine::remote \
    engine::identity capture::lineage capture::clause capture::module capture::table transform::tests
cargo +nightly miri test --no-default-features --lib -- "$@" \
    --skip zstd --skip compressed --skip hostile_pages --skip texts_are_sent_once -Zunstable-options --report-time
