#!/bin/sh
# Bring Azurite, which plays Azure's storage in the tests, from npm into a folder of its own.
# Prints the folder; quick where it is there. Needs node and npm.
#
# SHIPLINE_AZURITE names the folder. All checkouts of a machine share it.
set -eu

package=azurite@3.35.0 # newer ones need Node.js 22

if [ "$(id -u)" -eq 0 ]; then default=/var/cache/shipline-azurite
else default=${XDG_CACHE_HOME:-$HOME/.cache}/shipline-azurite
fi
folder=${SHIPLINE_AZURITE:-$default}
complete() { [ "$(cat "$folder/.package" 2> /dev/null)" = "$package" ]; }

if ! complete; then
    command -v npm > /dev/null || { echo "azurite.sh needs npm" >&2; exit 1; }
    mkdir -p "$(dirname "$folder")"
    exec 9> "$folder.lock"
    flock 9
fi
if ! complete; then
    work=$(mktemp -d "$folder.new-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    echo "fetching $package" >&2
    (cd "$work" && npm install --no-audit --no-fund --silent --ignore-scripts "$package" >&2)
    printf '%s\n' "$package" > "$work/.package"
    rm -rf "$folder"
    mv "$work" "$folder"
fi
echo "$folder"
