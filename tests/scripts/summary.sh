#!/bin/sh
# Prints the counts of all parts; fails if one of them is missing or skipped something.
set -eu
cd target/test-counts
total=0
for part in rust c crash interop; do
    read -r _ passed failed skipped < "$part.count"
    printf '%-10s %5d passed %3d failed %3d skipped\n' "$part" "$passed" "$failed" "$skipped"
    total=$((total + passed))
    if [ "$skipped" -ne 0 ]; then
        echo "$part skipped tests that should run" >&2
        exit 1
    fi
done
echo "$total passed, 0 failed"
