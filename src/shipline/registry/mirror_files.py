"""Mirrors in the files of other programs, merged with what is there: daemon.json of Docker,
hosts.toml of containerd, and a drop-in of registries.conf for Podman, Buildah, Skopeo and CRI-O.

Sources: docker daemon reference, `registry-mirrors`; containerd, docs/hosts.md;
containers-registries.conf(5).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from shipline.errors import ConfigError
from shipline.net import is_loopback
from shipline.registry.hosts import Endpoint

_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_BY_HAND = "correct the file, or add the mirrors by hand"
_MIRROR = "pull-from-mirror"


def for_docker(endpoint: Endpoint) -> str:
    """Why Docker cannot use a mirror; empty if it can."""
    if endpoint.prefix:
        return "Docker takes mirrors without a path only"
    return "Docker asks its mirrors for tags, too" if endpoint.digest_only else ""


def daemon_json(text: str, mirrors: Sequence[Endpoint]) -> str:
    """daemon.json with `mirrors` before those that it has. Raises ConfigError if it is invalid."""
    try:
        document = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigError(
            f"daemon.json is not JSON: {error}", code="docker-config", hint=_BY_HAND
        ) from None
    if not isinstance(document, dict):
        raise ConfigError("daemon.json is not a JSON object", code="docker-config", hint=_BY_HAND)
    plain = [
        one.origin.authority
        for one in mirrors
        if one.origin.scheme == "http" and not is_loopback(one.origin.host)
    ]
    _prepend(document, "registry-mirrors", [str(one.origin) for one in mirrors])
    _prepend(document, "insecure-registries", plain)
    return json.dumps(document, indent=2) + "\n"


def _prepend(document: dict[str, Any], key: str, entries: Sequence[str]) -> None:
    before = document.get(key, [])
    if not isinstance(before, list):
        raise ConfigError(f"daemon.json: {key} is not a list", code="docker-config", hint=_BY_HAND)
    kept = [one for one in before if str(one).rstrip("/") not in entries]
    if entries:
        document[key] = [*entries, *kept]


def hosts_toml(text: str, registry: Endpoint, mirrors: Sequence[Endpoint]) -> str:
    """hosts.toml of a registry with `mirrors` first, in their order. The settings that the file has
    for one of them stay, and so does everything else, with its comments. Raises ConfigError.
    """
    before = _toml(text, "hosts.toml")
    starts = [match.start() for match in _TABLE.finditer(text)]
    head = text[: starts[0]] if starts else text
    tables = [text[begin:end] for begin, end in pairwise([*starts, len(text)])]
    if "server" not in before:
        head = f'server = "{registry.origin}"\n\n{head.lstrip()}'
    blocks: dict[str, str] = {}
    others = []
    urls = {_containerd_url(one): one for one in mirrors}
    for table in tables:
        url = next((url for url in urls if re.match(rf'\s*\[+host\."{re.escape(url)}"', table)), "")
        if url:
            blocks[url] = blocks.get(url, "") + table
        else:
            others.append(table)
    new = "".join(
        f"{(blocks.get(url) or _containerd_block(url, one)).rstrip()}\n\n"
        for url, one in urls.items()
    )
    merged = f"{head.rstrip()}\n\n{new}{''.join(others)}".rstrip() + "\n"
    after = _toml(merged, "hosts.toml")
    hosts = before.get("host", {})
    added = {url: _containerd_values(one) for url, one in urls.items()}
    if after != {"server": str(registry.origin), **before, "host": {**added, **hosts}}:
        raise ConfigError(
            "hosts.toml has tables in a form that is not understood",
            code="docker-config",
            hint=_BY_HAND,
        )
    return merged


def _containerd_url(endpoint: Endpoint) -> str:
    path = f"/v2/{endpoint.prefix.rstrip('/')}" if endpoint.prefix else ""
    return f"{endpoint.origin}{path}"


def _containerd_values(endpoint: Endpoint) -> dict[str, Any]:
    values: dict[str, Any] = {
        "capabilities": ["pull"] if endpoint.digest_only else ["pull", "resolve"]
    }
    return {**values, "override_path": True} if endpoint.prefix else values


def _containerd_block(url: str, endpoint: Endpoint) -> str:
    values = _containerd_values(endpoint)
    lines = "".join(f"  {key} = {json.dumps(value)}\n" for key, value in values.items())
    return f'[host."{url}"]\n{lines}'


def registries_conf(
    text: str, others: Iterable[str], mirrors: Mapping[str, Sequence[Endpoint]]
) -> str:
    """A drop-in of registries.conf that has `mirrors` by host, before those that the hosts have in
    `text`, its content until now, or in `others`, the files that are read before it. It replaces
    what these say of a host, so it repeats the rest. Raises ConfigError.
    """
    own = _registries(text)
    known = {**{key: one for other in others for key, one in _registries(other).items()}, **own}
    for host, endpoints in mirrors.items():
        before = known.get(host, {"prefix": host, "location": host})
        entries = [_podman_mirror(one) for one in endpoints]
        locations = {entry["location"] for entry in entries}
        kept = [one for one in before.get("mirror", ()) if one.get("location") not in locations]
        own[host] = {**before, "prefix": host, "mirror": [*entries, *kept]}
    return "\n".join(line for entry in own.values() for line in _podman_lines(entry)) + "\n"


def _registries(text: str) -> dict[str, dict[str, Any]]:
    """The entries of a registries.conf by prefix, which is the location by default."""
    found = _toml(text, "registries.conf").get("registry", ())
    return {str(one.get("prefix") or one.get("location")): one for one in found}


def _podman_mirror(endpoint: Endpoint) -> dict[str, Any]:
    mirror: dict[str, Any] = {
        "location": f"{endpoint.origin.authority}/{endpoint.prefix}".rstrip("/")
    }
    if endpoint.origin.scheme == "http":
        mirror["insecure"] = True
    if endpoint.digest_only:
        mirror[_MIRROR] = "digest-only"
    return mirror


def _podman_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    yield "[[registry]]"
    for key, value in entry.items():
        if key != "mirror":
            yield f"{key} = {json.dumps(value)}"
    for mirror in entry.get("mirror", ()):
        yield "\n[[registry.mirror]]"
        for key, value in mirror.items():
            yield f"{key} = {json.dumps(value)}"
    yield ""


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{name} is not TOML: {error}", code="docker-config", hint=_BY_HAND
        ) from None
