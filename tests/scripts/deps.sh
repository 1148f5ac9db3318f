#!/bin/sh
# Installs what the tests need and the machine lacks.
set -eu
missing=
have() { command -v "$1" > /dev/null 2>&1; }
have valgrind || missing="$missing valgrind"
have pkg-config || missing="$missing pkg-config"
have g++ || missing="$missing g++"
have sqlite3 || missing="$missing sqlite3"
printf '#include <curl/curl.h>\n' | cc -E - > /dev/null 2>&1 || missing="$missing libcurl4-openssl-dev"
if [ -n "$missing" ]; then
    if have apt-get && [ "$(id -u)" = 0 ]; then
        apt-get update -qq > /dev/null
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing > /dev/null
    else
        echo "the tests need:$missing - install them with your system's package manager" >&2
        exit 1
    fi
fi
venv=target/venv
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
"$venv/bin/python" -c 'import importlib.metadata as m; assert m.version("pyturso") == "0.8.3"' 2> /dev/null ||
    "$venv/bin/pip" install -q pyturso==0.8.3
if have npm; then
    sh tests/scripts/node.sh
else
    echo "without npm the interop tests leave out Turso's client for JavaScript" >&2
fi
