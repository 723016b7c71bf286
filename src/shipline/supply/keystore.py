"""Key files by path: read with a bound, written as a pair that is whole or not there."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shipline.errors import ConfigError
from shipline.supply.keyfile import Password, encrypted_pem, parse_private_key
from shipline.supply.keys import PEM_LIMIT, PrivateKey, PublicKey


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where a pair of keys is."""

    private: Path
    public: Path


def read_private_key(path: Path, password: Password) -> PrivateKey:
    """Raises ConfigError for a file that cannot be read or holds no key, or a wrong password."""
    return parse_private_key(read_pem(path), str(path), password)


def read_public_key(path: Path) -> PublicKey:
    """Raises ConfigError for a file that cannot be read or holds no public key."""
    return PublicKey.parse(read_pem(path), str(path))


def read_pem(path: Path) -> bytes:
    """What is in a key file. Raises ConfigError where there is none, or too much."""
    try:
        with path.open("rb") as file:
            content = file.read(PEM_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}: {error.strerror}") from error
    if len(content) > PEM_LIMIT:
        raise ConfigError(f"{path} is too large for a key")
    return content


def write_key_pair(
    key: PrivateKey, prefix: Path, password: bytes, *, replace: bool = False
) -> KeyFiles:
    """Write PREFIX.key, readable by its owner only, and PREFIX.pub.

    Both or none: raises ConfigError where one exists, unless it is to be replaced.
    """
    files = KeyFiles(Path(f"{prefix}.key"), Path(f"{prefix}.pub"))
    check_free(files, replace=replace)
    sealed = encrypted_pem(key, password)
    try:
        _place(files.private, sealed, 0o600, replace)
        try:
            _place(files.public, key.public.pem, 0o644, replace)
        except OSError:
            if not replace:
                files.private.unlink()
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {prefix}.key and .pub: {error.strerror}") from error
    return files


def check_free(files: KeyFiles, *, replace: bool = False) -> None:
    """Raises ConfigError where a file would be overwritten that is not to be replaced."""
    for path in (files.private, files.public):
        if path.exists() and not replace:
            raise ConfigError(
                f"{path} exists already",
                hint="name another place with --output-key-prefix, or add --force: what was signed "
                "with the old key can then no longer be repeated",
            )


def _place(path: Path, content: bytes, mode: int, replace: bool) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        if replace:
            part.replace(path)
        else:
            os.link(part, path)  # fails where somebody else was faster
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
