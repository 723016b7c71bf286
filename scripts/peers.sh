#!/bin/sh
# Bring the newest peers of the tests, from Debian's unstable suite, into a folder of their own:
# the system keeps its packages. Prints the folder; quick where it is there.
#
#     peers=$(sh scripts/peers.sh)
#     PATH=$peers/usr/bin:$peers/usr/sbin:$PATH LD_LIBRARY_PATH=$peers/usr/lib/$(uname -m)-linux-gnu
#
# SHIPLINE_PEERS names the folder. All checkouts of a machine share it; it is replaced when the
# list of packages changes, and made anew, with what is newest then, after `rm -r`.
set -eu

packages="docker.io docker-cli docker-buildx containerd runc cosign skopeo podman kubectl
libgpgme45"

if [ "$(id -u)" -eq 0 ]; then default=/var/cache/shipline-peers
else default=${XDG_CACHE_HOME:-$HOME/.cache}/shipline-peers
fi
folder=${SHIPLINE_PEERS:-$default}
complete() { [ "$(cat "$folder/.packages" 2> /dev/null)" = "$packages" ]; }

if ! complete; then
    command -v apt-get > /dev/null || { echo "peers.sh needs apt (Debian)" >&2; exit 1; }
    mkdir -p "$(dirname "$folder")"
    exec 9> "$folder.lock"
    flock 9
fi
if ! complete; then
    work=$(mktemp -d "$folder.new-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" \
        "$work/none" "$work/root"
    keys=/usr/share/keyrings/debian-archive-keyring.pgp
    [ -e "$keys" ] || keys=/usr/share/keyrings/debian-archive-keyring.gpg
    # unstable lies where this system's own release comes from
    site=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' |
        sed -n 's/^\(http[^ ]*\) [a-z]*$/\1/p' | head -n 1)
    [ -n "$site" ] || { echo "peers.sh: apt has no source of Debian over HTTP" >&2; exit 1; }
    echo "deb [signed-by=$keys arch=$(dpkg --print-architecture)] $site unstable main" \
        > "$work/sources.list"
    apt() {
        apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist="$work/sources.list" \
            -o Dir::Etc::sourceparts="$work/none" -o Dir::Etc::preferencesparts="$work/none" \
            -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" "$@" >&2
    }
    echo "fetching peers from Debian's unstable suite: $packages" >&2
    apt -o APT::Update::Error-Mode=any update
    # shellcheck disable=SC2086
    (cd "$work/debs" && apt download $packages)
    for package in "$work"/debs/*.deb; do
        dpkg -x "$package" "$work/root"
    done
    # The libsubid that podman names needs the C library of unstable. Debian's stable one (package
    # uidmap) has the same three functions under an older name.
    subid=$(ldconfig -p | sed -n 's/^.*libsubid.so.5 .*=> //p')
    libraries=$(echo "$work"/root/usr/lib/*-linux-gnu)
    [ -z "$subid" ] || ln -s "$subid" "$libraries/libsubid.so.6"
    printf '%s\n' "$packages" > "$work/root/.packages"
    rm -rf "$folder"
    mv "$work/root" "$folder"
fi
echo "$folder"
