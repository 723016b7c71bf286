"""Keys on disk: cosign's encrypted PEM, which is also written, and PKCS #8.

cosign's file is JSON in PEM: scrypt derives a key from the password, with which NaCl's secretbox
encrypts the PKCS #8 bytes (github.com/secure-systems-lab/go-securesystemslib, `encrypted`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipline.errors import ConfigError
from shipline.files import write_durably, writing
from shipline.supply.keys import PEM_LIMIT, PrivateKey, PublicKey, UnusableKey
from shipline.tasks import directory_lock

Password = Callable[[], bytes]
"""Called only where a key needs a password."""
PASSWORD_VARIABLES = ("SHIPLINE_KEY_PASSWORD", "COSIGN_PASSWORD")
"""Where the environment has it; the first one that is set counts."""

_LABEL = "ENCRYPTED SIGSTORE PRIVATE KEY"
_OURS = re.compile(
    rb"-----BEGIN ENCRYPTED (SIGSTORE|COSIGN) PRIVATE KEY-----(.+?)"
    rb"-----END ENCRYPTED \1 PRIVATE KEY-----",
    re.DOTALL,
)
_KEY_SIZE = 32  # bytes
_SCRYPT = {"N": 65536, "r": 8, "p": 1}
_MEMORY = 256 << 20  # bytes; limit for the memory of scrypt
_ROUNDS = 16  # limit for the parallelization of scrypt


def parse_private_key(pem: bytes, name: str, password: Password) -> PrivateKey:
    """The private key in PEM: cosign's, PKCS #8, SEC 1 or PKCS #1. Raises ConfigError for other
    content and for a wrong password.
    """
    if match := _OURS.search(pem):
        return _from_pkcs8(_open_box(match[2], name, password()), name, None)
    if b"OPENSSH PRIVATE KEY" in pem:
        raise UnusableKey(
            f"{name} is an OpenSSH key", hint="convert a copy: ssh-keygen -p -m PKCS8 -f COPY"
        )
    if b"PRIVATE KEY-----" not in pem:
        kind = "a public key" if b"PUBLIC KEY-----" in pem else "not a private key"
        raise UnusableKey(f"{name} is {kind}", hint="`shipline key generate` creates a key pair")
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in pem or b"Proc-Type: 4,ENCRYPTED" in pem
    return _from_pkcs8(pem, name, password() if encrypted else None)


def encrypted_pem(key: PrivateKey, password: bytes) -> bytes:
    """The key in cosign's format, encrypted with `password`."""
    from nacl.secret import SecretBox

    salt = os.urandom(32)
    box = SecretBox(_stretched(password, salt, _SCRYPT)).encrypt(key.pkcs8())
    document = {
        "kdf": {"name": "scrypt", "params": _SCRYPT, "salt": _text(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": _text(box.nonce)},
        "ciphertext": _text(box.ciphertext),
    }
    body = _text(json.dumps(document, separators=(",", ":")).encode())
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join((f"-----BEGIN {_LABEL}-----", *lines, f"-----END {_LABEL}-----", "")).encode()


def _open_box(body: bytes, name: str, password: bytes) -> bytes:
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    damaged = UnusableKey(f"{name} is damaged: it is not in cosign's key format")
    try:
        document: Any = json.loads(base64.b64decode(b"".join(body.split()), validate=True))
        kdf, cipher = document["kdf"], document["cipher"]
        if kdf["name"] != "scrypt" or cipher["name"] != "nacl/secretbox":
            raise damaged
        salt, nonce, box = (
            base64.b64decode(text, validate=True)
            for text in (kdf["salt"], cipher["nonce"], document["ciphertext"])
        )
        stretched = _stretched(password, salt, _checked(kdf["params"], name))
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise damaged from None
    if len(nonce) != SecretBox.NONCE_SIZE:
        raise damaged
    try:
        return SecretBox(stretched).decrypt(box, nonce)
    except CryptoError:
        raise _wrong_password(name) from None


def _checked(params: Any, name: str) -> dict[str, int]:
    values = {key: params[key] for key in _SCRYPT}
    whole = all(type(value) is int and value > 0 for value in values.values())
    if not whole or 128 * values["N"] * values["r"] > _MEMORY or values["p"] > _ROUNDS:
        raise UnusableKey(f"{name} has excessive scrypt parameters: {values}")
    return values


def _stretched(password: bytes, salt: bytes, params: dict[str, int]) -> bytes:
    n, r, p = params["N"], params["r"], params["p"]
    memory = 128 * r * (n + p + 2) + (1 << 20)
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=_KEY_SIZE)


def _from_pkcs8(content: bytes, name: str, password: bytes | None) -> PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    is_pem = content.lstrip().startswith(b"-----")
    load = serialization.load_pem_private_key if is_pem else serialization.load_der_private_key
    try:
        return PrivateKey(load(content, password), name)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if password is not None:
            raise _wrong_password(name) from None
        raise UnusableKey(f"{name} is not a usable private key") from None


def _wrong_password(name: str) -> ConfigError:
    return ConfigError(
        f"{name} cannot be decrypted: wrong password",
        code="key-password",
        hint=f"set {' or '.join(PASSWORD_VARIABLES)}, or pass --password-file",
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The files of a key pair."""

    private: Path
    public: Path


def read_private_key(path: Path, password: Password) -> PrivateKey:
    """Read a private key. Raises ConfigError for an unreadable file, other content, or a wrong
    password.
    """
    return parse_private_key(read_pem(path), str(path), password)


def read_public_key(path: Path) -> PublicKey:
    """Read a public key. Raises ConfigError for an unreadable file or other content."""
    return PublicKey.parse(read_pem(path), str(path))


def read_pem(path: Path) -> bytes:
    """The content of a key file. Raises ConfigError if it is missing or too large."""
    try:
        with path.open("rb") as file:
            content = file.read(PEM_LIMIT + 1)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise ConfigError(
            f"cannot read the key {path}: {error.strerror}",
            code="file-unreadable",
            hint="`shipline key generate` makes a key pair" if missing else "",
        ) from error
    if len(content) > PEM_LIMIT:
        raise UnusableKey(f"{path} is too large for a key file")
    return content


def write_key_pair(
    key: PrivateKey, prefix: Path, password: bytes, *, replace: bool = False
) -> KeyFiles:
    """Write PREFIX.key, readable by its owner only, and PREFIX.pub.

    Writes both or neither. Raises ConfigError if one exists, unless `replace` is set.
    """
    files = KeyFiles(Path(f"{prefix}.key"), Path(f"{prefix}.pub"))
    check_free(files, replace=replace)
    sealed = encrypted_pem(key, password)
    written = f"{prefix}.key and .pub"
    with writing(written, ConfigError), directory_lock(prefix.parent):  # no two pairs are mixed
        write_durably(files.private, sealed, 0o600, replace=replace)
        try:
            write_durably(files.public, key.public.pem, 0o644, replace=replace)
        except OSError:
            if not replace:
                files.private.unlink()
            raise
    return files


def check_free(files: KeyFiles, *, replace: bool = False) -> None:
    """Raises ConfigError if a file exists, unless `replace` is set."""
    for path in (files.private, files.public):
        if path.exists() and not replace:
            raise ConfigError(
                f"{path} already exists",
                code="file-exists",
                hint="choose another place with --output-key-prefix, or replace it with --force:"
                " the old key is lost then",
            )
