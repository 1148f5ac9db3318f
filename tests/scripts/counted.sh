#!/bin/sh
# counted.sh NAME COMMAND...: runs one part of the tests, shows its output, and notes how many tests it counted.
# Cargo and the parts written for this project end with lines that say `N passed` and `N failed`.
set -u
name=$1
shift
dir=target/test-counts
mkdir -p "$dir"
log="$dir/$name.log"
status="$dir/$name.status"
rm -f "$status"
{ "$@" 2>&1; echo $? > "$status"; } | tee "$log"
code=$(cat "$status")
passed=$(grep -aoE '[0-9]+ passed' "$log" | awk '{n += $1} END {print n + 0}')
failed=$(grep -aoE '[0-9]+ failed' "$log" | awk '{n += $1} END {print n + 0}')
skipped=$(grep -aoE '[0-9]+ (ignored|skipped)' "$log" | awk '{n += $1} END {print n + 0}')
echo "$name $passed $failed $skipped" > "$dir/$name.count"
if [ "$code" -ne 0 ]; then
    echo "$name: FAILED (exit $code)" >&2
    exit "$code"
fi
if [ "$passed" -eq 0 ] || [ "$failed" -ne 0 ]; then
    echo "$name: $passed passed, $failed failed: a part that runs nothing has failed" >&2
    exit 1
fi
