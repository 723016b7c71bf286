"""Credentials in one encrypted file, for machines without a keyring.

The file is JSON: `version`, `salt` (base64), and `entries`: for each server `nonce` and `sealed`
(base64). The key is scrypt(passphrase, salt, N=2^15, r=8, p=1), 32 bytes; `sealed` is AES-256-GCM
of the user and the secret, with the server's name as associated data, so that entries cannot change
places. Server names are readable, nothing else is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shipline.errors import AuthError, ConfigError
from shipline.registry.credentials import Credentials

NAME = "shipline"  # of the vault among the credential helpers
_VERSION = 1
_LIMIT = 4 << 20  # bytes of the file
_COST = {"n": 1 << 15, "r": 8, "p": 1, "maxmem": 64 << 20}
_SALT, _NONCE = 16, 12  # bytes


@dataclass(frozen=True, slots=True)
class Vault:
    """The file `path`, opened with `passphrase`. Nothing is read or written before it is asked."""

    path: Path
    passphrase: str = field(repr=False)

    def get(self, server: str) -> Credentials | None:
        """What is kept for `server`. Raises AuthError for a wrong passphrase."""
        document = _load(self.path)
        entry = document["entries"].get(server)
        return None if entry is None else self._open(self._cipher(document), server, entry)

    def users(self) -> dict[str, str]:
        """The user for each server. Raises AuthError for a wrong passphrase."""
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
        """Keep the credentials of `server`. Raises AuthError if others have another passphrase."""
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
        document["entries"][server] = {"nonce": _encode(nonce), "sealed": _encode(sealed)}
        write_private(self.path, document)

    def _open(self, cipher: Any, server: str, entry: Mapping[str, str]) -> Credentials:
        from cryptography.exceptions import InvalidTag

        try:
            nonce, sealed = _decode(entry["nonce"]), _decode(entry["sealed"])
            known = json.loads(cipher.decrypt(nonce, sealed, server.encode()))
            return Credentials(known["username"], known["password"], known["identity_token"])
        except InvalidTag:
            raise AuthError(
                f"the passphrase does not open {self.path}",
                host=server,
                hint="give the one that was used at the first login, or delete the file and log "
                "in again",
            ) from None
        except (KeyError, TypeError, ValueError):
            raise _damaged(self.path) from None

    def _cipher(self, document: Mapping[str, Any]) -> Any:
        """Costs a tenth of a second, on purpose: made once for a file that was read."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            salt = _decode(document["salt"])
        except ValueError:
            raise _damaged(self.path) from None
        return AESGCM(hashlib.scrypt(self.passphrase.encode(), salt=salt, dklen=32, **_COST))


def forget(path: Path, server: str) -> bool:
    """Take the entry of `server` out of the file, for which no passphrase is needed."""
    document = _load(path)
    if document["entries"].pop(server, None) is None:
        return False
    write_private(path, document)
    return True


def vault_from(environment: Mapping[str, str], path: Path) -> Vault:
    """The vault, with the passphrase of SHIPLINE_PASSPHRASE or SHIPLINE_PASSPHRASE_FILE.

    Raises AuthError where neither is set.
    """
    passphrase = environment.get("SHIPLINE_PASSPHRASE", "")
    if not passphrase and (file := environment.get("SHIPLINE_PASSPHRASE_FILE")):
        try:
            passphrase = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"SHIPLINE_PASSPHRASE_FILE: cannot read {file}: {error}") from None
    if not passphrase:
        raise AuthError(
            f"{path} is locked",
            host="",
            hint="set SHIPLINE_PASSPHRASE, or SHIPLINE_PASSPHRASE_FILE to a file that holds it",
        )
    return Vault(path, passphrase)


def write_private(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON file by one that only its owner can read, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(document, file, indent="\t")
            file.write("\n")
            file.flush()
            os.fsync(fd)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LIMIT))
    except FileNotFoundError:
        return {"version": _VERSION, "salt": _encode(os.urandom(_SALT)), "entries": {}}
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
        f"{path} cannot be read as a vault of this version",
        hint="delete it and log in again, or run the version of shipline that wrote it",
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
