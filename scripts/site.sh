#!/bin/sh
# Usage: site.sh [DIRECTORY]
#
# The documentation as a site in DIRECTORY, by default site/, from the pages of the repository at
# their own places, so that links mean the same in both. ZENSICAL is the program, by default one
# that is installed for this run.
set -eu
cd "$(dirname "$0")/.."
site=$(realpath -m "${1:-site}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
zensical=${ZENSICAL:-}
if [ -z "$zensical" ]; then
    "${PYTHON:-python3}" -m venv "$work/tools"
    "$work/tools/bin/pip" install --quiet --disable-pip-version-check 'zensical>=0.0.73'
    zensical=$work/tools/bin/zensical
fi
mkdir "$work/pages"
# pages, and the files that they link to
git ls-files -z '*.md' LICENSE action.yml docs examples tests/fuzz/targets.py |
    xargs -0 cp --parents --target-directory="$work/pages"
# a directory without a page gets one that lists its files
find "$work/pages/docs" "$work/pages/examples" -type d | while read -r directory; do
    [ -e "$directory/README.md" ] && continue
    {
        echo "# $(basename "$directory")"
        echo
        (cd "$directory" && find . -maxdepth 1 -type f | sort | sed 's|^\./\(.*\)$|- [\1](\1)|')
    } > "$work/README.md"
    mv "$work/README.md" "$directory/README.md"
done
sed 's|^docs_dir = .*|docs_dir = "pages"|' zensical.toml > "$work/zensical.toml"
(cd "$work" && "$zensical" build --strict)
rm -rf "$site"
mv "$work/site" "$site"
