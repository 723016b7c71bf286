#!/bin/sh
# Usage: deb.sh MODULES DIRECTORY
#
# A Debian package in DIRECTORY: the Python packages in MODULES, which have extension modules for
# the Pythons in VERSIONS, as /usr/lib/shipline, with /usr/bin/shipline, the plugin of docker,
# completions and a manual page. MAINTAINER is its "Name <address>", by
# default the author of the last commit, RUN_PYTHON is a command that runs Python with these modules.
set -eu
cd "$(dirname "$0")/.."
modules=$1
maintainer=${MAINTAINER:-$(git log -1 --format="%an <%ae>" 2> /dev/null ||
    echo "shipline <shipline@localhost>")}
dist=$(realpath "$2")
oldest=${VERSIONS%% *}
newest=${VERSIONS##* }
after=${newest%.*}.$((${newest#*.} + 1))
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"
umask 022
share=$root/usr/share
mkdir -p "$root/DEBIAN" "$root/usr/bin" "$root/usr/lib" "$root/usr/libexec/docker/cli-plugins" \
    "$share/bash-completion/completions" "$share/zsh/vendor-completions" \
    "$share/fish/vendor_completions.d" "$share/man/man1" "$share/doc/shipline" \
    "$share/lintian/overrides"

cp -R "$modules" "$root/usr/lib/shipline"
find "$root/usr/lib/shipline" -type d \( -name __pycache__ -o -name tests \) -prune \
    -exec rm -r {} +
find "$root/usr/lib/shipline" -type d -exec chmod 0755 {} +
find "$root/usr/lib/shipline" -type f -exec chmod 0644 {} +
program() {
    cat > "$root/usr/bin/$1" << END
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/usr/lib/shipline")
from $2 import main

sys.exit(main())
END
    chmod 0755 "$root/usr/bin/$1"
}
program shipline shipline.cli
program docker-credential-shipline shipline.cli.credential_helper
ln -s ../../../bin/shipline "$root/usr/libexec/docker/cli-plugins/docker-shipline"

shipline="$RUN_PYTHON -m shipline"
$shipline completion bash > "$share/bash-completion/completions/shipline"
$shipline completion zsh > "$share/zsh/vendor-completions/_shipline"
$shipline completion fish > "$share/fish/vendor_completions.d/shipline.fish"
$RUN_PYTHON scripts/manual.py | gzip -9n > "$share/man/man1/shipline.1.gz"
ln -s shipline.1.gz "$share/man/man1/docker-credential-shipline.1.gz"

version=$($shipline --version | sed 's/^shipline //; s/\.\{0,1\}\(dev\|rc\|a\|b\)/~\1/')
{
    echo "shipline ($version) unstable; urgency=medium"
    echo
    echo "  * The changes are in CHANGELOG.md of the sources."
    echo
    echo " -- $maintainer  $(date -uR -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n > "$share/doc/shipline/changelog.gz"
{
    echo "Copyright 2026 the authors of shipline."
    echo "shipline is under the Apache License 2.0: /usr/share/common-licenses/Apache-2.0."
    echo "The Python packages in /usr/lib/shipline have these licences; the texts are beside them."
    echo
    (cd "$modules" && grep -HiE '^(License|License-Expression):' ./*.dist-info/METADATA |
        sed 's|^\./||; s|\.dist-info/METADATA:License[^:]*:|:|' | sort -u)
} > "$share/doc/shipline/copyright"
# The modules of PyPI's wheels are as PyPI has them.
cat > "$share/lintian/overrides/shipline" << END
shipline: embedded-library
shipline: unstripped-binary-or-object
shipline: hardening-no-fortify-functions
shipline: library-not-linked-against-libc
END

# KiB, as dpkg-gencontrol counts: those of the disk depend on its file system
size=$(find "$root/usr" \( -type f -printf '%s\n' -o -printf '1\n' \) |
    awk '{ size += int(($1 + 1023) / 1024) } END { print size }')
cat > "$root/DEBIAN/control" << END
Package: shipline
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: $maintainer
Installed-Size: $size
Depends: python3 (>= $oldest), python3 (<< $after), libc6 (>= 2.28)
Recommends: crun | runc, git, uidmap
Suggests: qemu-user-static, passt, docker-cli
Section: devel
Priority: optional
Description: from a git commit to a signed multi-architecture image
 shipline builds Dockerfiles without a daemon, pushes layers while later steps
 are still running, derives tags from git, applies them only after the quality
 gates have passed, signs the image, and copies it to other registries. It also
 includes a registry.
END
cat > "$root/DEBIAN/postinst" << 'END'
#!/bin/sh
set -e
[ "$1" != configure ] || /usr/bin/python3 -I -m compileall -q /usr/lib/shipline
END
cat > "$root/DEBIAN/prerm" << 'END'
#!/bin/sh
set -e
[ ! -d /usr/lib/shipline ] || find /usr/lib/shipline -name __pycache__ -prune -exec rm -r {} +
END
chmod 0755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm"
(cd "$root" && find usr -type f | LC_ALL=C sort | xargs -d '\n' md5sum) > "$root/DEBIAN/md5sums"
dpkg-deb --root-owner-group -Zxz -z1 --build "$root" "$dist" > /dev/null
