"""Real components that tests talk to: each starts on free ports and temporary directories.

with docker_registry(work) as registry, dockerd(work, registry, programs=newest()) as docker:
    push_base_images(registry, "busybox", cache=cache)
    docker.run("buildx", "build", "--push", ...)
"""

from peers.bases import push_base_images
from peers.binfmt import can_run_arm64
from peers.docker import Docker, dockerd, newest
from peers.process import PeerFailed, free_port, running
from peers.registry import Account, Registry, docker_registry

__all__ = [
    "Account",
    "Docker",
    "PeerFailed",
    "Registry",
    "can_run_arm64",
    "docker_registry",
    "dockerd",
    "free_port",
    "newest",
    "push_base_images",
    "running",
]
