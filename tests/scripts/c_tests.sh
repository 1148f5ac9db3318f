#!/bin/sh
# c_tests.sh: the C examples against the bundled server, under sanitizers and valgrind, and the release libraries as a
# linker sees them. Needs what `make build` builds. The contract tests proper are in tests/capi_c.rs.
#
# Prints one line per check and ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
out=$root/target/release
library=$out/libturso_sync.so
CC=${CC:-cc}
strict="-std=c99 -g -Wall -Wextra -pedantic -Werror -Iinclude"
passed=0
failed=0
skipped=0
server=

work=$(mktemp -d "${TMPDIR:-/tmp}/turso-sync-c.XXXXXX") || exit 1
cleanup() {
    [ -z "$server" ] || kill "$server" 2> /dev/null
    [ -z "$server" ] || wait "$server" 2> /dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# check NAME COMMAND...: counts one test; what the command printed is shown if it fails.
check() {
    name=$1
    shift
    if "$@" > "$work/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
        tail -n 60 "$work/log" | sed 's/^/        /'
    fi
}

# ---------------------------------------------------------------------------------------------------- the libraries

exports_only_ours() {
    nm -D --defined-only "$library" | awk '{ print $NF }' > "$work/exported"
    test -s "$work/exported" && ! grep -v '^turso_' "$work/exported"
}

has_soname() {
    readelf -d "$library" | grep -F 'soname: [libturso_sync.so.0]'
}

# loads_as NAME: the library under another name, as a copy and as a link.
loads_as() {
    mkdir -p "$work/copy" &&
        cp "$library" "$work/copy/$1" &&
        ln -s "$library" "$work/lib/$1" &&
        "$work/load" "$work/copy/$1" turso_setup turso_sync_database_new &&
        "$work/load" "$work/lib/$1" turso_setup turso_sync_database_new
}

# The program looks for the library under its SONAME, which only an installed one has.
mkdir "$work/lib" "$work/plain" "$work/sanitized" "$work/data"
ln -s "$library" "$work/lib/libturso_sync.so"
ln -s "$library" "$work/lib/libturso_sync.so.0"

check "the library exports turso_* and nothing else" exports_only_ours
check "the library has a SONAME" has_soname
check "the loader compiles" $CC $strict tests/c/load.c -o "$work/load" -ldl
check "the library loads as libturso_sync_sdk_kit.so" loads_as libturso_sync_sdk_kit.so

# ----------------------------------------------------------------------------------------------------- the examples

examples="quickstart two_replicas conflicts transform host_io"
curl_flags=
if curl_flags=$(pkg-config --cflags --libs libcurl 2> /dev/null) && [ -n "$curl_flags" ]; then
    examples="$examples curl_multi"
elif [ "${CI:-}" = true ]; then
    check "libcurl is installed" false
else
    skipped=1
    echo "skip    curl_multi: libcurl is not installed"
fi

# sanitized NAME: compiles an example with AddressSanitizer and UndefinedBehaviorSanitizer.
sanitized() {
    # shellcheck disable=SC2086
    $CC $strict -fsanitize=address,undefined -fno-sanitize-recover=all "c-examples/$1.c" -o "$work/sanitized/$1" \
        -L"$out" "-Wl,-rpath,$work/lib" -lturso_sync $([ "$1" != curl_multi ] || echo "$curl_flags")
}

built_by_make() {
    make -C c-examples INCLUDE=../include LIBDIR="$work/lib" OUT="$work/plain" || return 1
    for example in $examples; do
        test -x "$work/plain/$example" || return 1
    done
}

# succeeds COMMAND...: the command ends with 0, and no sanitizer and not valgrind had anything to say.
succeeds() {
    "$@" 2> "$work/complaints"
    code=$?
    cat "$work/complaints"
    [ "$code" -eq 0 ] || echo "exit code $code"
    [ "$code" -eq 0 ] && ! grep -qE 'Sanitizer|runtime error|==[0-9]+==' "$work/complaints"
}

# refused COMMAND...: the command says that it failed and ends with 1; without a sanitizer's report.
refused() {
    "$@" 2> "$work/complaints"
    code=$?
    cat "$work/complaints"
    echo "exit code $code"
    [ "$code" -eq 1 ] && grep -q "$expected" "$work/complaints" &&
        ! grep -qE 'Sanitizer|runtime error' "$work/complaints"
}

# Only what is lost for good counts: the Rust runtime keeps some memory, reachable until the end, on purpose.
valgrind="valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect,possible
    --show-leak-kinds=definite,indirect,possible"

# finds FAULT WORDS COMMAND...: the tool that runs tests/c/fault.c ends with an error and says so. One that is switched off,
# by a flag or the environment, would find nothing in the examples either.
finds() {
    fault=$1
    words=$2
    shift 2
    "$@" "$fault" > "$work/complaints" 2>&1
    code=$?
    cat "$work/complaints"
    [ "$code" -ne 0 ] && grep -q "$words" "$work/complaints"
}

fault_compiles() {
    # Warnings are on: it does nothing that a compiler could see.
    $CC $strict tests/c/fault.c -o "$work/plain/fault" &&
        $CC $strict -fsanitize=address,undefined -fno-sanitize-recover=all tests/c/fault.c -o "$work/sanitized/fault"
}

check "the faults compile" fault_compiles
check "a program without fault is clean" succeeds "$work/sanitized/fault"
check "AddressSanitizer finds an overflow" finds overflow heap-buffer-overflow "$work/sanitized/fault"
check "AddressSanitizer finds a use after free" finds "use after free" heap-use-after-free "$work/sanitized/fault"
check "LeakSanitizer finds a leak" finds leak "detected memory leaks" "$work/sanitized/fault"
check "UndefinedBehaviorSanitizer finds an overflow" finds arithmetic "signed integer overflow" "$work/sanitized/fault"
# shellcheck disable=SC2086
check "valgrind finds an overflow" finds overflow "Invalid read" $valgrind "$work/plain/fault"
# shellcheck disable=SC2086
check "valgrind finds a leak" finds leak "definitely lost" $valgrind "$work/plain/fault"

check "the examples compile without a warning" built_by_make
for example in $examples; do
    check "$example compiles with sanitizers" sanitized "$example"
done

# ------------------------------------------------------------------------------------------------------- the server

# The address comes through a pipe, so that nothing has to be tried again and again.
TURSO_AUTH_TOKEN=secret-of-the-c-tests
export TURSO_AUTH_TOKEN
mkfifo "$work/address"
TURSO_SYNC_AUTH_TOKEN=$TURSO_AUTH_TOKEN "$out/turso-sync-server" 127.0.0.1:0 "$work/server.db" \
    > "$work/address" 2> "$work/server.log" &
server=$!
read -r line < "$work/address"
url=$(echo "$line" | sed -n 's/^listening on \(http:[^ ]*\).*$/\1/p')
check "the server listens" test -n "$url"

data=$work/data
san=$work/sanitized
check "quickstart runs clean" succeeds "$san/quickstart" "$url" "$data/quick.db"
check "quickstart runs clean on its replica of before" succeeds "$san/quickstart" "$url" "$data/quick.db"
check "two_replicas runs clean" succeeds "$san/two_replicas" "$url" "$data/a.db" "$data/b.db"
check "two_replicas runs clean a second time" succeeds "$san/two_replicas" "$url" "$data/a.db" "$data/b.db"
check "conflicts runs clean" succeeds "$san/conflicts" "$url" "$data/d.db" "$data/e.db"
check "conflicts runs clean a second time" succeeds "$san/conflicts" "$url" "$data/d.db" "$data/e.db"
check "transform runs clean" succeeds "$san/transform" "$url" "$data/t.db" "$data/u.db"
check "transform runs clean a second time" succeeds "$san/transform" "$url" "$data/t.db" "$data/u.db"
check "host_io runs clean" succeeds "$san/host_io" "$url" "$data/host.db"
check "host_io runs clean on its replica of before" succeeds "$san/host_io" "$url" "$data/host.db"
case $examples in *curl_multi*)
    check "curl_multi runs clean" succeeds "$san/curl_multi" "$url" "$data/c1.db" "$data/c2.db" "$data/c3.db"
    check "curl_multi runs clean a second time" succeeds "$san/curl_multi" "$url" "$data/c1.db" "$data/c2.db" "$data/c3.db"
    ;;
esac
# shellcheck disable=SC2086
check "quickstart is clean under valgrind" succeeds $valgrind "$work/plain/quickstart" "$url" "$data/vq.db"
# shellcheck disable=SC2086
check "two_replicas is clean under valgrind" succeeds $valgrind "$work/plain/two_replicas" "$url" "$data/va.db" "$data/vb.db"

expected=401
for example in $examples; do
    second=
    case $example in two_replicas | conflicts | transform) second=$data/refused2.db ;; esac
    # shellcheck disable=SC2086
    check "$example with a wrong token ends with an error" \
        refused env TURSO_AUTH_TOKEN=wrong "$san/$example" "$url" "$data/refused.db" $second
done

# ----------------------------------------------------------------------------------------------- the static library

links_beside_sqlite() {
    sh tests/scripts/static.sh "$out/libturso_sync.a" "$work/libturso_sync.a" &&
        $CC $strict c-examples/quickstart.c tests/c/foreign_sqlite.c "$work/libturso_sync.a" -o "$work/static" \
            -lpthread -ldl -lm &&
        test "$(nm --defined-only "$work/static" | grep -c ' T sqlite3_open$')" -eq 1 &&
        ! readelf -d "$work/static" | grep turso_sync
}

check "the static library links beside another SQLite" links_beside_sqlite
check "and works there" succeeds "$work/static" "$url" "$data/static.db"

# --------------------------------------------------------------------------------------------------------- the end

stops() {
    kill "$server" && wait "$server"
    code=$?
    server=
    cat "$work/server.log"
    return "$code"
}

# Four quickstarts have inserted a note each: two under sanitizers, one under valgrind, one linked statically.
remote_has_all() {
    python3 - "$work/server.db" << 'PY'
import sqlite3, sys
remote = sqlite3.connect(sys.argv[1])
assert remote.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
notes = remote.execute("SELECT count(*) FROM notes").fetchone()
visits = remote.execute("SELECT count(*) FROM visits").fetchone()
assert (notes, visits) == ((4,), (2,)), (notes, visits)
PY
}

check "the server stops when asked to" stops
check "the remote has every row" remote_has_all

tail="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || tail="$tail, $skipped skipped"
echo "$tail"
[ "$failed" -eq 0 ]
