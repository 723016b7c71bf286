"""Credentials from docker's files, containers-auth.json(5), and our encrypted store.

Other programs read that store through docker-credential-shipline.

Order: REGISTRY_AUTH_FILE alone where it is set; else the `auths` in DOCKER_AUTH_CONFIG, docker's
config.json or a pull secret of Kubernetes in its place, auth.json, .dockercfg, and what a CI job or
a cloud has (`ambient`). Within a file: credHelpers for the host, credsStore, then `auths`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

from shipline.errors import AuthError, ConfigError
from shipline.files import write_durably
from shipline.registry.ambient import ambient_credentials
from shipline.registry.credentials import HUB_KEY, Credentials, get_from_helper, normal_host
from shipline.tasks import directory_lock
from shipline.values import Redacted

_AUTH_VARIABLE = "DOCKER_AUTH_CONFIG"
_HUB_SERVER = "index.docker.io"
_PULL_SECRETS = (".dockerconfigjson", ".dockercfg")  # keys of a Secret, files where it is mounted
STORE_FILE = "shipline-credentials.json"  # beside the config.json that refers to it
_LIMIT = 4 << 20  # bytes of a configuration file


class ConfigKeychain:
    """Reads `files` on first use, and caches the credentials of each repository."""

    def __init__(
        self, files: tuple[Path, ...], environment: Mapping[str, str] | None = None
    ) -> None:
        self._files = files
        self._environment = environment
        self._lock = threading.Lock()
        self._documents: tuple[tuple[Path, Mapping[str, Any]], ...] | None = None
        self._known: dict[tuple[str, str], Credentials | None] = {}

    def credentials(self, host: str, repository: str) -> Credentials | None:
        """Raises AuthError if a helper fails, ConfigError if a file cannot be read."""
        key = (normal_host(host), repository)
        with self._lock:
            if key not in self._known:
                if self._documents is None:
                    self._documents = (*self._given(), *map(_with_document, self._files))
                self._known[key] = self._search(*key)
            return self._known[key]

    def _search(self, host: str, repository: str) -> Credentials | None:
        for path, document in self._documents or ():
            for helper in helpers_of(document, host):
                server = HUB_KEY if host == "docker.io" else host
                credentials = self._ask(helper, server, path)
                if credentials is not None:
                    return credentials
            credentials = _from_auths(document.get("auths"), host, repository)
            if credentials is not None:
                return credentials
        if self._environment is None or "REGISTRY_AUTH_FILE" in self._environment:
            return None
        return ambient_credentials(self._environment, host)

    def _given(self) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """The variable that docker and GitLab's runner read like a file, but for helpers."""
        environment = self._environment or {}
        text = environment.get(_AUTH_VARIABLE, "")
        if text and "REGISTRY_AUTH_FILE" not in environment:
            try:
                document = json.loads(text)
                yield Path(_AUTH_VARIABLE), {"auths": document.get("auths")}
            except (ValueError, AttributeError, RecursionError):
                raise ConfigError(
                    f"{_AUTH_VARIABLE} is not the JSON of a config.json with auths",
                    code="docker-config",
                    hint="repair or unset it",
                ) from None

    def _ask(self, helper: str, server: str, path: Path) -> Credentials | None:
        if helper != STORE_HELPER:
            return get_from_helper(helper, server, self._environment)
        return credential_store(self._environment or {}, path.with_name(STORE_FILE)).get(server)


def keychain_from(environment: Mapping[str, str]) -> ConfigKeychain:
    """The keychain of the user with this environment. Reads nothing yet."""
    return ConfigKeychain(tuple(_config_files(environment)), environment)


def login_file(environment: Mapping[str, str]) -> Path:
    """The file that records logins: the first one that is read.

    Raises ConfigError without a home directory.
    """
    for path in _config_files(environment):
        return path
    raise ConfigError(
        "there is no home directory", code="home-missing", hint="set HOME, or DOCKER_CONFIG"
    )


def _with_document(path: Path) -> tuple[Path, Mapping[str, Any]]:
    return path, load_document(path)


def _config_files(environment: Mapping[str, str]) -> Iterator[Path]:
    if explicit := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(explicit)
        return
    home = environment.get("HOME")
    if docker := environment.get("DOCKER_CONFIG"):
        yield from (Path(docker) / name for name in ("config.json", *_PULL_SECRETS))
    elif home:
        yield Path(home) / ".docker/config.json"
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    elif home:
        yield Path(f"/run/containers/{os.getuid()}/auth.json")
    if config := environment.get("XDG_CONFIG_HOME"):
        yield Path(config) / "containers/auth.json"
    elif home:
        yield Path(home) / ".config/containers/auth.json"
    if home:
        yield Path(home) / ".dockercfg"


def load_document(path: Path) -> dict[str, Any]:
    """A configuration file; empty where there is none, as in a file without text and a directory,
    which Kubernetes mounts for an optional Secret. Raises ConfigError.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LIMIT).strip() or b"{}")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", code="docker-config", hint="repair or remove it"
        ) from None
    if not isinstance(document, dict):
        raise ConfigError(
            f"{path} is not a JSON object", code="docker-config", hint="repair or remove it"
        )
    return {"auths": document} if path.name == _PULL_SECRETS[1] else document


def helpers_of(document: Mapping[str, Any], host: str) -> Iterator[str]:
    """The helper for a host, which is normalised by normal_host()."""
    per_host = document.get("credHelpers")
    for key, helper in per_host.items() if isinstance(per_host, dict) else ():
        if normal_host(key) == host and isinstance(helper, str):
            yield helper
            return
    store = document.get("credsStore")
    if isinstance(store, str) and store:
        yield store


def _from_auths(auths: object, host: str, repository: str) -> Credentials | None:
    """The entry with the longest key: `host/team/app`, `host/team`, then any form of the host, then
    those with wildcards.
    """
    if not isinstance(auths, dict):
        return None
    wild = sorted((key for key in auths if "*" in key), reverse=True)
    exact = sorted(auths.keys() - wild, key=lambda key: -len(_namespace(key)))
    for key in (*exact, *wild):
        same = _matches(key, host) if "*" in key else normal_host(key) == host
        if same and f"{repository}/".startswith(_namespace(key)) and (entry := _entry(auths[key])):
            return entry
    return None


def _matches(pattern: str, host: str) -> bool:
    """Whether a key with wildcards, as pull secrets of Kubernetes have them, names the host: `*`
    stands for a part of one label, and the port is the same.
    """
    name, port = _split_port(normal_host(pattern))
    own_name, own_port = _split_port(_HUB_SERVER if host == "docker.io" else host)
    labels, own = name.split("."), own_name.split(".")
    return (
        port == own_port
        and len(labels) == len(own)
        and all(fnmatchcase(one, label) for one, label in zip(own, labels, strict=True))
    )


def _split_port(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (host, "")


def _namespace(key: str) -> str:
    """What repositories of the key begin with: `team/`; empty where it is for the whole host."""
    return "" if names_host(key) else _path(key).strip("/") + "/"


def names_host(key: str) -> bool:
    """Whether the key is a host, as docker writes it, without a namespace. `host/v2` is a namespace
    as podman writes it; `host/v2/` is none, nor is the path of a URL without wildcards.
    """
    return _path(key) in ("", "v1/", "v2/") or ("://" in key and "*" not in key)


def _path(key: str) -> str:
    return (key.partition("://")[2] or key).partition("/")[2]


def _entry(value: object) -> Credentials | None:
    """An empty entry is docker's marker for a secret kept by a helper."""
    if not isinstance(value, dict):
        return None

    def text(key: str) -> str:
        field = value.get(key)
        return field if isinstance(field, str) else ""

    username, password = text("username"), text("password")
    if text("auth"):
        username, password = _decode(text("auth")) or (username, password)
    credentials = Credentials(username, password, text("identitytoken"), text("registrytoken"))
    return credentials if credentials != Credentials(username) else None


def _decode(auth: str) -> tuple[str, str] | None:
    try:
        decoded = base64.b64decode(auth, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    username, colon, password = decoded.partition(":")
    return (username, password.strip("\0")) if colon else None


STORE_HELPER = "shipline"  # the store's name as a credential helper
_VERSION = 1
_COST = {"n": 1 << 15, "r": 8, "p": 1, "maxmem": 64 << 20}
_SALT, _NONCE = 16, 12  # bytes


class CredentialStore(Redacted, frozen=True):
    """Credentials encrypted with `passphrase` in the file `path`, opened on first use."""

    hidden: ClassVar = frozenset({"passphrase"})

    path: Path
    passphrase: str

    def get(self, server: str) -> Credentials | None:
        """The credentials of `server`. Raises AuthError for a wrong passphrase."""
        document = _load(self.path)
        entry = document["entries"].get(server)
        return None if entry is None else self._open(self._cipher(document), server, entry)

    def users(self) -> dict[str, str]:
        """The username per server. Raises AuthError for a wrong passphrase."""
        document = _load(self.path)
        if not document["entries"]:
            return {}
        cipher = self._cipher(document)
        return {
            server: self._open(cipher, server, entry).username
            for server, entry in document["entries"].items()
            if entry is not None
        }

    def put(self, server: str, credentials: Credentials) -> None:
        """Store the credentials of `server`. Raises AuthError for a wrong passphrase."""
        with changing(self.path):
            self._put(server, credentials)

    def _put(self, server: str, credentials: Credentials) -> None:
        document = _load(self.path)
        cipher = self._cipher(document)
        for other, entry in document["entries"].items():
            self._open(cipher, other, entry)
            break
        text = json.dumps(
            {
                "username": credentials.username,
                "password": credentials.password,
                "identity_token": credentials.identity_token,
            }
        )
        nonce = os.urandom(_NONCE)
        sealed = cipher.encrypt(nonce, text.encode(), server.encode())
        document["entries"][server] = {"nonce": _b64encode(nonce), "sealed": _b64encode(sealed)}
        write_private(self.path, document)

    def _open(self, cipher: Any, server: str, entry: Mapping[str, str]) -> Credentials:
        from cryptography.exceptions import InvalidTag

        try:
            nonce, sealed = _b64decode(entry["nonce"]), _b64decode(entry["sealed"])
            known = json.loads(cipher.decrypt(nonce, sealed, server.encode()))
            return Credentials(known["username"], known["password"], known["identity_token"])
        except InvalidTag:
            raise AuthError(
                f"wrong passphrase for {self.path}",
                code="credential-store",
                host=server,
                hint="use the one from the first login, or delete the file and log in again",
            ) from None
        except (KeyError, TypeError, ValueError):
            raise _damaged(self.path) from None

    def _cipher(self, document: Mapping[str, Any]) -> Any:
        """Deliberately slow (0.1 s): call it once per file."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            salt = _b64decode(document["salt"])
        except ValueError:
            raise _damaged(self.path) from None
        return AESGCM(hashlib.scrypt(self.passphrase.encode(), salt=salt, dklen=32, **_COST))


def erase_credentials(path: Path, server: str) -> bool:
    """Remove the entry of `server`, without a passphrase; False if there was none."""
    if server not in _load(path)["entries"]:
        return False
    with changing(path):
        document = _load(path)
        document["entries"].pop(server, None)
        write_private(path, document)
    return True


def credential_store(environment: Mapping[str, str], path: Path) -> CredentialStore:
    """The store at `path`, with the passphrase of SHIPLINE_PASSPHRASE or SHIPLINE_PASSPHRASE_FILE.

    Raises AuthError if neither is set.
    """
    passphrase = environment.get("SHIPLINE_PASSPHRASE", "")
    if not passphrase and (file := environment.get("SHIPLINE_PASSPHRASE_FILE")):
        try:
            passphrase = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"SHIPLINE_PASSPHRASE_FILE: cannot read {file}: {error}", code="credential-store"
            ) from None
    if not passphrase:
        raise AuthError(
            f"{path} is locked",
            code="credential-store",
            host="",
            hint="set SHIPLINE_PASSPHRASE, or SHIPLINE_PASSPHRASE_FILE to a file that holds it",
        )
    return CredentialStore(path, passphrase)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """A block that reads a file and replaces it, while no other process of shipline does. What is
    beside it is locked with it.
    """
    directory = path.resolve().parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with directory_lock(directory):
        yield


@contextmanager
def changed_document(file: Path) -> Iterator[dict[str, Any]]:
    """The document of a config.json, which the block changes and no other process of shipline
    meanwhile.
    """
    with changing(file):
        document = load_document(file)
        yield document
        write_private(file, document)


def write_private(path: Path, document: Mapping[str, Any]) -> None:
    """Atomically replace a JSON file by one that only its owner can read; where it is a symbolic
    link, the file that it names.
    """
    path = path.resolve()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(path, (json.dumps(document, indent="\t") + "\n").encode(), 0o600)


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LIMIT))
    except FileNotFoundError:
        return {"version": _VERSION, "salt": _b64encode(os.urandom(_SALT)), "entries": {}}
    except (OSError, ValueError, RecursionError):
        raise _damaged(path) from None
    if (
        not isinstance(document, dict)
        or document.get("version") != _VERSION
        or not isinstance(document.get("salt"), str)
        or not isinstance(document.get("entries"), dict)
    ):
        raise _damaged(path)
    return document


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is not a credential store of this version",
        code="credential-store",
        hint="delete it and log in again, or run the version of shipline that wrote it",
    )


def _b64encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _b64decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
