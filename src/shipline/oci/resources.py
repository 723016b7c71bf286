"""Resource limits of a container (runtime-spec, linux.resources and process.rlimits)."""

from __future__ import annotations

from msgspec import Struct


class Ulimit(Struct, frozen=True):
    """A resource limit of processes, -1 for unlimited (setrlimit(2)); `name` without RLIMIT_."""

    name: str
    soft: int
    hard: int


class Resources(Struct, frozen=True):
    """Control group limits; 0 and empty mean no limit. Memory, and memory with swap (-1: any amount
    of swap), are in bytes, CPU periods and quotas in microseconds, cpusets are lists of ranges;
    `cgroup_parent` is the parent cgroup of the container.
    """

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cgroup_parent: str = ""
