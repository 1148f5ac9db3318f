#!/bin/sh
# Runs the interop tests against target/release; `run.sh -k NAME` runs some of them. SEED=n repeats a run.
set -eu
cd "$(dirname "$0")/../.."
venv=target/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c '
import importlib.metadata as m
assert m.version("pyturso") == "0.8.3" and m.version("pytest")' 2> /dev/null ||
    "$venv/bin/pip" install -q --disable-pip-version-check pyturso==0.8.3 pytest
if command -v npm > /dev/null 2>&1; then
    sh tests/scripts/node.sh
fi
export PYTHONDONTWRITEBYTECODE=1
# A crowd that works for long does not hang: twice the time, because everybody comes to an end and is compared.
[ -z "${CROWD_SECONDS:-}" ] || set -- -o "faulthandler_timeout=$((120 + 2 * CROWD_SECONDS))" "$@"
exec "$venv/bin/python" -m pytest tests/interop "$@"
