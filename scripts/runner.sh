#!/bin/sh
# Make a hosted runner ready for builds: install shipline from this checkout into the directory $1,
# and what steps of builds need. Does nothing twice.
set -eu

place=$1
checkout=$(dirname "$0")/..

if [ ! -x "$place/bin/shipline" ]; then
    python3 -m venv "$place"
    "$place/bin/pip" install --quiet --disable-pip-version-check "$checkout"
fi

missing=""
command -v crun > /dev/null || command -v runc > /dev/null || missing="$missing crun"
command -v newuidmap > /dev/null || missing="$missing uidmap"
ls /usr/bin/qemu-*-static > /dev/null 2>&1 || missing="$missing qemu-user-static"
if [ -n "$missing" ] && command -v apt-get > /dev/null; then
    sudo apt-get update -qq
    # shellcheck disable=SC2086
    sudo apt-get install -y -qq --no-install-recommends $missing > /dev/null
fi

# Ubuntu keeps programs without root from user namespaces, in which builds run.
restricted=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
if [ "$(id -u)" -ne 0 ] && [ -e "$restricted" ] && [ "$(cat "$restricted")" = 1 ]; then
    sudo sysctl -q -w kernel.apparmor_restrict_unprivileged_userns=0
fi
