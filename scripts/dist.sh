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
# The same commit, Python, and versions of what pip installs give the same bytes. The versions are
# in constraints.txt, which PIP_CONSTRAINT takes to build again.
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
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC PYTHONHASHSEED=0
umask 022

rm -rf "$dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet --disable-pip-version-check \
    'build>=1.2' 'setuptools>=77' 'shiv>=1.0.8'

# The tracked files as they are here, without what earlier builds and the umask of the checkout left
mkdir -p "$work/sources" "$work/sdist" "$dist"
git ls-files -z | tar --create --null --files-from - --mode u=rwX,go=rX |
    tar --extract --directory "$work/sources"
builds() { "$work/tools/bin/python" -m build --quiet --no-isolation "$@"; }
builds --sdist --outdir "$work" "$work/sources"
tar --extract --file "$work"/*.tar.gz --directory "$work/sdist"
sdist=$(cd "$work/sdist" && echo *)
tar --create --directory "$work/sdist" --format gnu --sort name --mtime "@$SOURCE_DATE_EPOCH" \
    --owner 0 --group 0 --numeric-owner --mode u=rwX,go=rX "$sdist" |
    gzip -9n > "$dist/$sdist.tar.gz"
builds --wheel --outdir "$dist" "$work/sdist/$sdist"

for version in $versions; do
    "$work/tools/bin/pip" install --quiet --disable-pip-version-check --no-compile \
        --python-version "$version" --implementation cp --only-binary :all: \
        --platform "manylinux_2_28_$(uname -m)" --platform "manylinux_2_17_$(uname -m)" \
        --target "$work/$version" "$dist"/*.whl
    cp -R "$work/$version/." "$work/modules"
done
# pip notes where the wheel lay, and makes programs that start this machine's Python.
rm -rf "$work/modules/bin" "$work"/modules/shipline-*.dist-info/direct_url.json
sed -i -E '\,^(\.\./)*bin/|/direct_url\.json\,,d' "$work"/modules/*.dist-info/RECORD
for place in modules tools/lib/python*/site-packages; do
    "$work/tools/bin/pip" freeze --disable-pip-version-check --all --exclude shipline \
        --path "$work"/$place
done | sort -u > "$dist/constraints.txt"
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
(cd "$dist" && sha256sum -- * > "$work/SHA256SUMS")
mv "$work/SHA256SUMS" "$dist"
if [ -n "${SIGNING_KEY:-}" ]; then
    set --
    for file in "$dist"/*; do
        case $file in
            *.spdx.json) ;; # their digests are in SHA256SUMS
            *) set -- "$@" "$file" ;;
        esac
    done
    "$python" -m shipline sign-blob --key "$SIGNING_KEY" "$@" > /dev/null
fi
