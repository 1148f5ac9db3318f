#!/bin/sh
# Installs Turso's client for JavaScript into target/node, for the interop tests.
set -eu
version=0.7.2
folder=target/node
installed=$(sed -n 's/.*"version": "\(.*\)".*/\1/p' "$folder/node_modules/@tursodatabase/sync/package.json" 2> /dev/null || true)
[ "$installed" = "$version" ] && exit 0
mkdir -p "$folder"
echo '{"private": true}' > "$folder/package.json"
npm install --prefix "$folder" --no-audit --no-fund --silent "@tursodatabase/sync@$version"
