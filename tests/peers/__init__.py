"""Real components that tests talk to: each starts on free ports and temporary directories.

with docker_registry(work) as registry, dockerd(work, registry, programs=newest()) as docker:
    push_base_images(registry, "busybox", cache=cache)
    docker.run("buildx", "build", "--push", ...)
"""

from peers.actions_cache import ActionsCache, actions_cache
from peers.bases import push_base_images
from peers.binfmt import can_run_arm64
from peers.containerd import Containerd, containerd
from peers.docker import Docker, dockerd, engine_version, newest
from peers.edges import Edge, nginx, nginx_edge, varnish_edge
from peers.git import FILE_TIME_S, GitRepository, GitServer, git_server
from peers.object_storage import S3Service, azurite, moto_server
from peers.podman import Podman, podman
from peers.process import PeerFailed, free_port, running
from peers.redis import REDIS, Redis, redis
from peers.registry import Account, Registry, docker_registry

__all__ = [
    "FILE_TIME_S",
    "REDIS",
    "Account",
    "ActionsCache",
    "Containerd",
    "Docker",
    "Edge",
    "GitRepository",
    "GitServer",
    "PeerFailed",
    "Podman",
    "Redis",
    "Registry",
    "S3Service",
    "actions_cache",
    "azurite",
    "can_run_arm64",
    "containerd",
    "docker_registry",
    "dockerd",
    "engine_version",
    "free_port",
    "git_server",
    "moto_server",
    "newest",
    "nginx",
    "nginx_edge",
    "podman",
    "push_base_images",
    "redis",
    "running",
    "varnish_edge",
]
