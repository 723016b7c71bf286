#!/bin/sh
# Usage: dist.sh [DIRECTORY]
#
# Packages in DIRECTORY, by default dist/: a wheel, an sdist, and shipline.pyz, one file with all
# dependencies for every CPython from 3.11 on, on Linux with this machine's architecture; where
# dpkg-deb is, a Debian package with the same modules. FILE.spdx.json lists what is in each.
# Digests are in SHA256SUMS.
#
# SIGNING_KEY is a private key, or env://NAME for one in a variable, with its password in
# COSIGN_PASSWORD: with it each package, and SHA256SUMS, gets a signature, FILE.sigstore.json.
#
# Extension modules say in their names which Python they are for, so that those of several
# versions lie beside each other. Modules of shipline.pyz are unpacked once, at the first start,
# below ~/.shiv.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
versions=${VERSIONS:-3.11 3.12 3.13 3.14}
dist=${1:-dist}
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2> /dev/null || date +%s)}"
export SOURCE_DATE_EPOCH

rm -rf "$dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet --disable-pip-version-check 'build>=1.2' 'shiv>=1.0.8'
"$work/tools/bin/python" -m build --quiet --outdir "$dist" .

for version in $versions; do
    "$work/tools/bin/pip" install --quiet --disable-pip-version-check --no-compile \
        --python-version "$version" --implementation cp --only-binary :all: \
        --platform "manylinux_2_28_$(uname -m)" --platform "manylinux_2_17_$(uname -m)" \
        --target "$work/$version" "$dist"/*.whl
    cp -R "$work/$version/." "$work/modules"
done
rm -rf "$work/modules/bin"
"$work/tools/bin/shiv" --site-packages "$work/modules" --compressed --reproducible \
    --python '/usr/bin/env python3' --entry-point shipline.cli:main \
    --output-file "$dist/shipline.pyz" > /dev/null

# Python with the modules of the packages, which make the rest
export PYTHONPATH="$work/modules" PYTHONDONTWRITEBYTECODE=1
if command -v dpkg-deb > /dev/null; then
    VERSIONS=$versions RUN_PYTHON=$python sh scripts/deb.sh "$work/modules" "$dist"
fi
for kind in whl tar.gz pyz deb; do
    for package in "$dist"/*."$kind"; do
        [ ! -e "$package" ] || "$python" scripts/sbom.py "$work/modules" "$package"
    done
done
(cd "$dist" && LC_ALL=C && sha256sum -- * > "$work/SHA256SUMS")
mv "$work/SHA256SUMS" "$dist"
if [ -n "${SIGNING_KEY:-}" ]; then
    for file in "$dist"/*; do
        case $file in
            *.spdx.json) ;; # their digests are in SHA256SUMS
            *) "$python" -m shipline sign-blob --key "$SIGNING_KEY" "$file" > /dev/null ;;
        esac
    done
fi
