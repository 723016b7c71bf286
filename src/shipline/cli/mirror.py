"""`shipline mirror`: mirrors of registries, here and in the files of other programs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shipline.cli.environment import registry_options
from shipline.cli.mirror_sync import sync
from shipline.cli.program import CommandGroup
from shipline.errors import ConfigError, UsageError
from shipline.files import read_bounded, reading, write_whole, writing
from shipline.units import shown_size

if TYPE_CHECKING:
    from shipline.registry.client import KnownEndpoint

_LIMIT = 1 << 20  # bytes of a file
_DROP_IN = "shipline-mirrors.conf"
_NEXT = {
    "docker": "`systemctl reload docker`, or SIGHUP to dockerd, makes Docker read it",
    "containerd": "containerd reads it at each pull, where `config_path` of its CRI plugin names"
    " the directory (ctr: --hosts-dir)",
    "podman": "Podman, Buildah, Skopeo and CRI-O read it at each pull",
}


@click.group("mirror", cls=CommandGroup)
def group() -> None:
    """Show mirrors of registries, write them for other programs, and fill them."""


group.add_command(sync)


@group.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@registry_options
def list_command(as_json: bool) -> None:
    """Show the mirrors in the order in which they are asked, with what was measured.

    Those of which nothing is known are asked for /v2/, without credentials.
    """
    from shipline.cli.tables import columns

    found = _known()
    if as_json:
        click.echo(json.dumps([_facts(host, one) for host, one in found], indent=2))
        return
    heads = ("REGISTRY", "ENDPOINT", "FIRST BYTE", "THROUGHPUT", "FAILURES", "")
    click.echo(columns([heads, *(_row(host, one) for host, one in found)], 3), nl=False)


@group.command("config")
@click.option(
    "--for",
    "program",
    type=click.Choice([*_NEXT]),
    required=True,
    help="The program that is to use the mirrors.",
)
@click.option("--write", is_flag=True, help="Write the files instead of showing them.")
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="daemon.json, certs.d, or registries.conf.d; by default where the program has it.",
)
@registry_options
def config_command(program: str, write: bool, path: Path | None) -> None:
    """Configure Docker, containerd, or Podman with the mirrors, the nearest first.

    What their files have already stays in them.
    """

    found: dict[str, list[KnownEndpoint]] = {}
    for host, one in _known():
        found.setdefault(host, []).append(one)
    for file, text in _FILES[program](path or _default(program), found):
        if not write:
            click.echo(f"# {file}\n{text}", nl=False)
            continue
        hint = "run it as root, or name another place with --path"
        with writing(file, ConfigError, hint=hint):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, text.encode())
        click.echo(f"wrote {file}")
    if write:
        click.echo(_NEXT[program], err=True)


def _known() -> list[tuple[str, KnownEndpoint]]:
    """The endpoints of all registries that have mirrors. Raises UsageError if there is none."""
    from shipline.api import open_client

    with open_client() as client:
        found = [(host, one) for host in client.settings.mirrors for one in client.known(host)]
    if not found:
        raise UsageError(
            "there are no mirrors",
            code="mirrors-none",
            hint="add `registry-mirrors: [https://mirror.example]` to shipline.yaml, or name one"
            " with --registry-mirror or SHIPLINE_MIRRORS",
        )
    return found


def _facts(host: str, known: KnownEndpoint) -> dict[str, object]:
    endpoint, seen = known.endpoint, known.measurement
    return {
        "registry": host,
        "endpoint": endpoint.base,
        "mirror": bool(endpoint.mirrored),
        "digest_only": endpoint.digest_only,
        "chosen": known.chosen,
        "latency_s": seen.latency_s,
        "measured": seen.measured,
        "bytes_per_s": seen.bytes_per_s,
        "transferred": seen.transferred,
        "failures": seen.failures,
        "failed": seen.failed,
        "reason": seen.reason,
    }


def _row(host: str, known: KnownEndpoint) -> Sequence[str]:
    endpoint, seen = known.endpoint, known.measurement
    notes = [
        "chosen" if known.chosen else "",
        "" if endpoint.mirrored else "the registry itself, last",
        "for digests only" if endpoint.digest_only else "",
        seen.reason,
    ]
    return (
        host,
        endpoint.base,
        f"{seen.latency_s * 1000:.1f} ms" if seen.latency_s else "-",
        f"{shown_size(int(seen.bytes_per_s))}/s" if seen.bytes_per_s else "-",
        str(seen.failures),
        "; ".join(filter(None, notes)),
    )


_Found = Mapping[str, Sequence["KnownEndpoint"]]


def _docker(path: Path, found: _Found) -> Iterator[tuple[Path, str]]:
    from shipline.registry import mirror_files

    usable = []
    for host, endpoints in found.items():
        for one in endpoints:
            if not one.endpoint.mirrored:
                continue
            other = "" if host == "docker.io" else "Docker takes mirrors of Docker Hub only"
            if reason := other or mirror_files.for_docker(one.endpoint):
                click.echo(f"warning: {one.endpoint.base} is left out: {reason}", err=True)
            else:
                usable.append(one.endpoint)
    if not usable:
        raise UsageError(
            "Docker can use none of the mirrors",
            code="mirrors-none",
            hint="name one of Docker Hub without a path; a registry node is one with an upstream"
            ' that has `match: "*"`',
        )
    yield path, mirror_files.daemon_json(_text(path), usable)


def _containerd(path: Path, found: _Found) -> Iterator[tuple[Path, str]]:
    from shipline.registry import mirror_files

    for host, endpoints in found.items():
        *mirrors, registry = [one.endpoint for one in endpoints]
        file = path / host / "hosts.toml"
        yield file, mirror_files.hosts_toml(_text(file), registry, mirrors)


def _podman(path: Path, found: _Found) -> Iterator[tuple[Path, str]]:
    from shipline.registry import mirror_files

    file = path / _DROP_IN
    files = [path.parent / "registries.conf", *sorted(path.glob("*.conf"))]
    others = [_text(one) for one in files if one.name < _DROP_IN or one.parent != path]
    mirrors = {
        host: [one.endpoint for one in endpoints if one.endpoint.mirrored]
        for host, endpoints in found.items()
    }
    yield file, mirror_files.registries_conf(_text(file), others, mirrors)


_FILES = {"docker": _docker, "containerd": _containerd, "podman": _podman}


def _default(program: str) -> Path:
    """Where a program has its file, for root or for the user."""
    root = os.geteuid() == 0
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    match program:
        case "docker":
            return Path("/etc/docker/daemon.json") if root else config / "docker/daemon.json"
        case "containerd":
            return Path("/etc/containerd/certs.d")
        case _:
            base = Path("/etc/containers") if root else config / "containers"
            return base / "registries.conf.d"


def _text(path: Path) -> str:
    """The content of a file; empty if there is none. Raises ConfigError."""
    with reading(path, ConfigError), suppress(FileNotFoundError):
        return read_bounded(path, _LIMIT).decode()
    return ""
