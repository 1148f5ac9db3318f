#!/bin/sh
# demo.sh [DB]: two C replicas sync through the bundled server, on a copy of DB, of the sample database, or of one made
# here. Needs what `make build` builds. Ends by itself and leaves nothing behind.
set -eu
cd "$(dirname "$0")/../.."
database=${1:-}
if [ -n "$database" ] && [ ! -r "$database" ]; then
    echo "demo: cannot read $database" >&2
    exit 1
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/turso-sync-demo.XXXXXX")
server=
cleanup() {
    [ -z "$server" ] || kill "$server" 2> /dev/null || true
    [ -z "$server" ] || wait "$server" 2> /dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -n "$database" ]; then
    # A backup instead of a copy: the database may be in use.
    python3 - "$database" "$work/server.db" << 'PY'
import sqlite3, sys
source = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
source.backup(sqlite3.connect(sys.argv[2]))
PY
    echo "1. A server for a copy of $database."
else
    python3 tests/interop/sample.py "$work/server.db"
    echo "1. A server for a sample database: a music shop."
fi

: > "$work/log"
target/release/turso-sync-server 127.0.0.1:0 "$work/server.db" > "$work/log" 2>&1 &
server=$!
url=
while [ -z "$url" ]; do
    url=$(sed -n 's/^.*listening on \(http:[^ ]*\).*$/\1/p' "$work/log")
    if ! kill -0 "$server" 2> /dev/null; then
        cat "$work/log" >&2
        exit 1
    fi
    [ -n "$url" ] || sleep 0.05
done
echo "   It listens on $url."

echo "2. A C program, c-examples/two_replicas.c, with two replicas of it:"
echo
# The program looks for the library under its SONAME, which only an installed one has.
ln -s "$PWD/target/release/libturso_sync.so" "$work/libturso_sync.so.0"
${CC:-cc} -std=c99 -O2 -Iinclude c-examples/two_replicas.c -o "$work/two_replicas" \
    -Ltarget/release "-Wl,-rpath,$work" -lturso_sync
{
    "$work/two_replicas" "$url" "$work/alice.db" "$work/bob.db" && : > "$work/succeeded"
} | sed -e "s|$work/||g" -e 's/^\(.\)/   \1/'
[ -e "$work/succeeded" ] || exit 1

kill "$server"
wait "$server" || { echo "the server did not stop cleanly" >&2; exit 1; }
server=
echo
echo "3. Everything is stopped. The three files, read with plain SQLite:"
echo
printf '   '
python3 tests/scripts/compare.py "$work/server.db" "$work/alice.db" "$work/bob.db"
echo
echo "Done: one remote, two replicas, the same rows in all of them."
