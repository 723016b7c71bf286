"""Credentials from the files of docker and of containers-auth.json(5), as other programs read them.

Order: REGISTRY_AUTH_FILE alone where it is set; else docker's config.json, then auth.json, then
.dockercfg. Within a file: credHelpers for the host, credsStore, then `auths`.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shipline.errors import ConfigError
from shipline.registry.credentials import HUB_KEY, Credentials, normal_host
from shipline.registry.helpers import ask_helper

_LIMIT = 4 << 20  # bytes of a configuration file


class ConfigKeychain:
    """Reads `files` when first asked; what is found for a repository is remembered."""

    def __init__(
        self, files: tuple[Path, ...], environment: Mapping[str, str] | None = None
    ) -> None:
        self._files = files
        self._environment = environment
        self._lock = threading.Lock()
        self._documents: tuple[Mapping[str, Any], ...] | None = None
        self._known: dict[tuple[str, str], Credentials | None] = {}

    def credentials(self, host: str, repository: str) -> Credentials | None:
        """Raises AuthError if a helper fails, ConfigError if a file cannot be read."""
        key = (normal_host(host), repository)
        with self._lock:
            if key not in self._known:
                if self._documents is None:
                    self._documents = tuple(filter(None, map(_load, self._files)))
                self._known[key] = self._search(*key)
            return self._known[key]

    def _search(self, host: str, repository: str) -> Credentials | None:
        for document in self._documents or ():
            for helper in _helpers(document, host):
                server = HUB_KEY if host == "docker.io" else host
                found = ask_helper(helper, server, self._environment)
                if found is not None:
                    return found
            found = _from_auths(document.get("auths"), host, repository)
            if found is not None:
                return found
        return None


def keychain_from(environment: Mapping[str, str]) -> ConfigKeychain:
    """The keychain of a user, whose environment this is. Nothing is read yet."""
    return ConfigKeychain(tuple(_places(environment)), environment)


def _places(environment: Mapping[str, str]) -> Iterator[Path]:
    if explicit := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(explicit)
        return
    home = environment.get("HOME")
    if docker := environment.get("DOCKER_CONFIG"):
        yield Path(docker) / "config.json"
    elif home:
        yield Path(home) / ".docker/config.json"
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    if config := environment.get("XDG_CONFIG_HOME"):
        yield Path(config) / "containers/auth.json"
    elif home:
        yield Path(home) / ".config/containers/auth.json"
    if home:
        yield Path(home) / ".dockercfg"


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LIMIT))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="repair or remove it") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a JSON object", hint="repair or remove it")
    return {"auths": document} if path.name == ".dockercfg" else document


def _helpers(document: Mapping[str, Any], host: str) -> Iterator[str]:
    per_host = document.get("credHelpers")
    for key, helper in per_host.items() if isinstance(per_host, dict) else ():
        if normal_host(key) == host and isinstance(helper, str):
            yield helper
            return
    store = document.get("credsStore")
    if isinstance(store, str) and store:
        yield store


def _from_auths(auths: object, host: str, repository: str) -> Credentials | None:
    """The entry of the longest key: `host/team/app`, `host/team`, then the host in any spelling."""
    if not isinstance(auths, dict):
        return None
    pieces = repository.split("/")
    for count in range(len(pieces), 0, -1):
        entry = _entry(auths.get("/".join((host, *pieces[:count]))))
        if entry is not None:
            return entry
    for key, value in auths.items():
        if _names_host(key) and normal_host(key) == host and (entry := _entry(value)):
            return entry
    return None


def _names_host(key: str) -> bool:
    """Whether the key is a host, as docker writes it, and not a host with a namespace."""
    rest = (key.partition("://")[2] or key).partition("/")[2].strip("/")
    return "://" in key or rest in ("", "v1", "v2")


def _entry(value: object) -> Credentials | None:
    """An empty entry is docker's mark for a secret that is elsewhere."""
    if not isinstance(value, dict):
        return None

    def text(key: str) -> str:
        found = value.get(key)
        return found if isinstance(found, str) else ""

    username, password = text("username"), text("password")
    if text("auth"):
        username, password = _decode(text("auth")) or (username, password)
    found = Credentials(username, password, text("identitytoken"), text("registrytoken"))
    return found if found != Credentials(username) else None


def _decode(auth: str) -> tuple[str, str] | None:
    try:
        decoded = base64.b64decode(auth, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    username, colon, password = decoded.partition(":")
    return (username, password.strip("\0")) if colon else None
