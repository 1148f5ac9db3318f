#!/bin/sh
# static.sh INPUT OUTPUT: turns cargo's libturso_sync.a into an archive that exposes turso_* symbols only.
#
# A Rust static library also exposes its SQLite and the Rust runtime. In a program that has a SQLite of its own the
# link then fails with duplicate definitions, or one SQLite silently takes the place of the other. So everything is
# linked into one object, and all symbols but ours are made local to it. Code of SQLite stays in, ours alone can call it.
#
# Needs GNU binutils (ld, objcopy, nm, ar). What remains to be linked by the program: -lpthread -ldl -lm.
set -eu
input=$1
output=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The headers say what is public.
headers=$(dirname "$0")/../../include
sed -n '/^TURSO_API/{N;s/\n/ /;s/^TURSO_API.*[ *]\(turso_[a-z0-9_]*\)(.*/\1/p}' "$headers"/*.h | sort -u >"$work/public"
test -s "$work/public"

ld -r --whole-archive "$input" -o "$work/all.o"
# Sections with LLVM bitcode, left by thin LTO, would be read again by other tools.
objcopy --remove-section=.llvmbc --remove-section=.llvmcmd --keep-global-symbols="$work/public" \
    "$work/all.o" "$work/turso_sync.o"

nm --defined-only --extern-only "$work/turso_sync.o" | awk 'NF == 3 { print $3 }' | sort -u >"$work/exposed"
if ! cmp -s "$work/public" "$work/exposed"; then
    echo "exposed symbols differ from those of the headers:" >&2
    diff "$work/public" "$work/exposed" >&2 || true
    exit 1
fi
rm -f "$output"
ar rcs "$output" "$work/turso_sync.o"
