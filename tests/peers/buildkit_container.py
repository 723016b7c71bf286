"""An image as BuildKit's for the driver `docker-container`, whose daemon is that of an engine.

`buildctl dial-stdio` leads to the port RELAY of this machine; `buildkitd` notes its arguments in
its state, and fails where FAIL is set.
"""

from __future__ import annotations

from pathlib import Path

from peers.docker import Docker
from peers.registry import Registry

_DOCKERFILE = """\
FROM busybox
COPY --chmod=755 buildkitd buildctl /bin/
ENTRYPOINT ["buildkitd"]
"""
_BUILDKITD = """\
#!/bin/sh
[ -z "$FAIL" ] || { echo "$FAIL"; exit 3; }
mkdir -p /var/lib/buildkit
printf '%s\\n' "$@" > /var/lib/buildkit/arguments
date >> /var/lib/buildkit/starts
touch /answers
trap 'exit 0' TERM
while :; do sleep 0.1; done
"""
_BUILDCTL = """\
#!/bin/sh
[ -e /answers ] || { echo "nobody answers" >&2; exit 1; }
[ "$*" = "dial-stdio" ] || exit 0
exec nc 127.0.0.1 "$RELAY"
"""


def push_buildkit_image(work: Path, docker: Docker, registry: Registry, name: str) -> None:
    """Push the image under a name without a registry."""
    work.mkdir()
    (work / "Dockerfile").write_text(_DOCKERFILE)
    (work / "buildkitd").write_text(_BUILDKITD)
    (work / "buildctl").write_text(_BUILDCTL)
    image = f"{registry.address}/{name}"
    for words in (("build", "-q", "-t", image, work), ("push", "-q", image)):
        done = docker.run(*words)
        assert done.returncode == 0, done.stdout
