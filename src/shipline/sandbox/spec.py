"""A build step as a value: what to run, as whom, with what mounted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shipline.sandbox.users import ROOT, User

Network = Literal["host", "none"]

HOSTNAME = "buildkitsandbox"


@dataclass(frozen=True, slots=True)
class BindMount:
    """A directory, file or socket of the host, seen at `target`."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class TmpfsMount:
    """An empty directory in memory; `size` in bytes, 0 for the kernel's default."""

    target: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file that exists only while the step runs, and only in memory."""

    target: str
    content: bytes = field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


StepMount = BindMount | TmpfsMount | SecretFile


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A resource limit by its short name (`nofile`), -1 for no limit."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step may use, 0 and empty for no limit: bytes of memory, and of memory with swap (-1:
    as much swap as there is), weights and microseconds of processors, sets of them and of memory
    nodes; `parent` is the control group that the step's is made in.
    """

    memory: int = 0
    swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpus: str = ""
    mems: str = ""
    parent: str = ""


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One command in a root file system.

    `env` entries are `NAME=value`; PATH and HOME are added where they are missing. `secret_env`
    is the same for values that may not be shown. Relative mount targets start at `cwd`. `mounts`
    are made in order, a later one may lie inside an earlier one.
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: User = ROOT
    mounts: tuple[StepMount, ...] = ()
    secret_env: tuple[str, ...] = field(default=(), repr=False)
    network: Network = "host"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    hostname: str = HOSTNAME
    shm_size: int = 64 << 20
    ulimits: tuple[Ulimit, ...] = ()
    limits: Limits = field(default_factory=Limits)
    insecure: bool = False
    no_new_privileges: bool = False
