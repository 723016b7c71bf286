"""The configuration of a daemon (buildkitd.toml) with the certificates that it names, as files that
are copied to where the daemon runs.

Source: moby/buildkit, docs/buildkitd.toml.md; docker/buildx, util/confutil.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from shipline.errors import UsageError
from shipline.files import reading

PLACE = "/etc/buildkit"
"""Where the files are for the daemon."""
CONFIGURATION = "buildkitd.toml"

Table = dict[str, Any]
_NOT_A_NAME = re.compile(r"[^a-zA-Z0-9.-]+")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read_configuration(path: Path) -> dict[str, bytes]:
    """The files by name: the configuration, and the certificates and keys of its registries, to
    which it leads. Raises UsageError for what cannot be read.
    """
    try:
        document = tomllib.loads(_read(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--buildkitd-config: {path} is not TOML: {error}", code="buildkitd-config"
        ) from None
    files: dict[str, bytes] = {}

    def copied(host: str, source: object) -> str:
        if not isinstance(source, str):
            raise UsageError(
                f"--buildkitd-config: in {path}, {source!r} of {host} is not a path",
                code="buildkitd-config",
            )
        name = f"certs/{_NOT_A_NAME.sub('_', host)}/{PurePosixPath(source).name}"
        files[name] = _read(path.parent / source)
        return f"{PLACE}/{name}"

    registries = document.get("registry", {})
    for host, registry in registries.items() if isinstance(registries, dict) else ():
        if not isinstance(registry, dict):
            raise UsageError(
                f"--buildkitd-config: in {path}, registry.{host} is not a table",
                code="buildkitd-config",
            )
        if "ca" in registry:
            registry["ca"] = [copied(host, one) for one in _listed(registry["ca"])]
        for pair in _listed(registry.get("keypair", [])):
            for part in ("key", "cert"):
                if isinstance(pair, dict) and part in pair:
                    pair[part] = copied(host, pair[part])
    return {CONFIGURATION: format_toml(document).encode(), **files}


def insecure_entitlements(files: Mapping[str, bytes]) -> list[str]:
    """What the configuration allows builds to ask for."""
    if (raw := files.get(CONFIGURATION)) is None:
        return []
    return [str(one) for one in _listed(tomllib.loads(raw.decode()).get("insecure-entitlements"))]


def format_toml(document: Table) -> str:
    """The document as TOML 1.0, laid out as buildx does it."""
    return "\n".join(_lines(document, ())) + "\n"


def _lines(table: Table, place: tuple[str, ...]) -> Iterator[str]:
    """A table: its values first, since a heading ends it."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    indent = "  " * len(place)
    for key, value in table.items():
        if key not in inner:
            yield f"{indent}{_key(key)} = {_value(value)}"
    for key, value in inner.items():
        name = (*place, key)
        yield from ("", f"{indent}[{'.'.join(map(_key, name))}]")
        yield from _lines(value, name)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_value(one)}' for key, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, (bool, str)):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _read(path: Path) -> bytes:
    with reading(path, of="--buildkitd-config"):
        return path.read_bytes()
