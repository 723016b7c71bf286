#!/bin/sh
# Install what the demo, the tests and the benchmark need beside Python, on Debian as root.
# Does nothing where all of it is there.
set -eu

packages="binfmt-support crun runc qemu-user-static erofs-utils uidmap python3-venv
redis-server valkey-server attr libcap2-bin iproute2 openssh-client openssh-server curl strace xz-utils bzip2 zstd e2fsprogs
docker.io docker-buildx docker-cli docker-registry containerd stargz-snapshotter skopeo oras podman
buildah cosign
kustomize wrk chromium chromium-driver prometheus prometheus-pushgateway victoria-metrics tmux rpm db5.3-util nginx-light varnish"

# npm comes with Node.js from elsewhere, and with many packages from Debian
command -v npm > /dev/null || packages="$packages nodejs npm"

missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "installing:$missing"
if [ "$(id -u)" -ne 0 ]; then
    echo "run this as root, or install them: apt-get install$missing" >&2
    exit 1
fi
# The engine, the registry and the web caches are for tests that start their own: keep Debian's from
# starting.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing > /dev/null
