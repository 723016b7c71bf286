#!/bin/sh
# Usage: dist.sh [DIRECTORY]
#
# Packages in DIRECTORY, by default dist/: a wheel, an sdist, and shipline.pyz, one file with all
# dependencies for every CPython from 3.11 on, on Linux with this machine's architecture; their
# digests are in SHA256SUMS beside them.
#
# Extension modules say in their names which Python they are for, so that those of several
# versions lie beside each other. Modules are unpacked once, at the first start, below ~/.shiv.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
versions=${VERSIONS:-3.11 3.12 3.13 3.14}
dist=${1:-dist}

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
cd "$dist"
sha256sum -- *.whl *.tar.gz *.pyz > SHA256SUMS
