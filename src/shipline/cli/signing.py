"""What commands about signatures share: keys, passwords, images in registries."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.environment import registry_options
from shipline.errors import ConfigError, FlagConflict, InvalidFlag, UsageError
from shipline.oci import Descriptor, Reference

if TYPE_CHECKING:
    from shipline.registry import RemoteRepository
    from shipline.supply import PrivateKey, PublicKey

_ENVIRONMENT = "env://"
_REPOSITORY = "COSIGN_REPOSITORY"  # of cosign, for all signatures
_LONGEST = 1 << 16  # bytes of a password file
_Command = Callable[..., Any]


def image_option(command: _Command) -> _Command:
    """The options for registries, and --allow-http-registry as in cosign."""
    plain = click.option(
        "--allow-http-registry",
        is_flag=True,
        help="Use plain HTTP for the registries of the images.",
    )
    return plain(registry_options(command))


def password_option(command: _Command) -> _Command:
    """--password-file, for every command that decrypts or encrypts a private key."""
    return click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File with the key's password; else SHIPLINE_KEY_PASSWORD, COSIGN_PASSWORD, a prompt.",
    )(command)


def cosign_signs(command: _Command) -> _Command:
    """Flags of scripts for cosign that turn off what is not here: questions and the log."""
    yes = click.option("-y", "--yes", is_flag=True, hidden=True, expose_value=False)
    return yes(_off("--tlog-upload")(_off("--use-signing-config")(command)))


def cosign_verifies(command: _Command) -> _Command:
    """Flags of scripts for cosign that leave out checks of certificates and of the log."""
    for name in ("tlog", "sct"):
        command = _without(f"--insecure-ignore-{name}")(command)
    return _without("--private-infrastructure")(_without("--offline")(command))


def _without(name: str) -> Callable[[_Command], _Command]:
    return click.option(name, is_flag=True, hidden=True, expose_value=False)


def _off(name: str) -> Callable[[_Command], _Command]:
    """A flag that may only be false."""

    def check(_: click.Context, __: click.Parameter, given: bool) -> None:
        if given:
            raise InvalidFlag(
                f"{name}: signatures are made with keys, without a transparency log",
                hint=f"{name}=false, or leave it out",
            )

    return click.option(name, is_flag=True, hidden=True, expose_value=False, callback=check)


@dataclass(frozen=True, slots=True)
class ImageAddress:
    """An image in a registry: the given reference and the manifest it resolves to."""

    repository: RemoteRepository
    reference: Reference
    target: Descriptor

    def __str__(self) -> str:
        return str(self.reference.at(self.target.digest))


@contextmanager
def open_images(names: Sequence[str], *, plain: bool) -> Iterator[list[ImageAddress]]:
    """The images, resolved to digests by their registries, not by mirrors. Raises NotFound for one
    that does not exist.
    """
    from shipline.api import open_client

    if os.environ.get(_REPOSITORY):
        click.echo(f"warning: {_REPOSITORY} is not used: signatures are with their image", err=True)
    references = [Reference.parse(name).or_latest for name in names]
    insecure = {reference.host for reference in references} if plain else set()
    with open_client(*insecure) as client:
        places = []
        for reference in references:
            repository = client.repository(reference).unmirrored
            target = repository.resolve(str(reference.digest or reference.tag))
            places.append(ImageAddress(repository, reference, target))
        yield places


def private_keys(paths: Iterable[str], password_file: Path | None) -> list[PrivateKey]:
    """The keys to sign with: paths, or env://NAME for one in the environment."""
    from shipline.supply import parse_private_key, read_private_key

    keys = []
    for path in paths:
        password = password_of(path, password_file)
        if path.startswith(_ENVIRONMENT):
            keys.append(parse_private_key(_from_environment(path), path, password))
        else:
            keys.append(read_private_key(Path(path), password))
    if not keys:
        raise UsageError(
            "there is no key to sign with",
            code="key-missing",
            hint="pass --key KEY; `shipline key generate` creates one",
        )
    return keys


def public_keys(paths: Iterable[str]) -> list[PublicKey]:
    """The keys to verify with: paths, or env://NAME for one in the environment."""
    from shipline.supply import PublicKey, read_public_key

    return [
        PublicKey.parse(_from_environment(path), path)
        if path.startswith(_ENVIRONMENT)
        else read_public_key(Path(path))
        for path in paths
    ]


def password_of(name: str, password_file: Path | None) -> Callable[[], bytes]:
    """A function that reads the password of the key `name` when it is needed."""

    def find() -> bytes:
        given = _given_password(password_file)
        return _prompt(f"Password of {name}") if given is None else given

    return find


def new_password(name: str, password_file: Path | None) -> bytes:
    """The password for a new key; a prompt asks for it twice."""
    given = _given_password(password_file)
    if given is not None:
        if not given:
            click.echo(f"warning: {name} is protected by an empty password", err=True)
        return given
    first = _prompt(f"Password for {name}")
    if first != _prompt("Repeat the password"):
        raise UsageError("the two passwords differ", code="password-mismatch")
    return first


def annotations_of(texts: Iterable[str]) -> dict[str, str]:
    """Parse `key=value` pairs. Raises UsageError."""
    annotations: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidFlag(f"--annotation: write key=value, not {text!r}")
        if annotations.setdefault(key, value) != value:
            raise FlagConflict(f"--annotation: {key} is given twice")
    return annotations


def _given_password(file: Path | None) -> bytes | None:
    if file is not None:
        try:
            with file.open("rb") as opened:
                return opened.read(_LONGEST).rstrip(b"\r\n")
        except OSError as error:
            raise ConfigError(
                f"cannot read the password in {file}: {error.strerror}", code="key-password"
            ) from error
    from shipline.supply import PASSWORD_VARIABLES

    for name in PASSWORD_VARIABLES:
        if (value := os.environ.get(name)) is not None:
            return value.encode(errors="surrogateescape")
    return None


def _prompt(question: str) -> bytes:
    from shipline.supply import PASSWORD_VARIABLES

    if not sys.stdin.isatty():
        needed = f"the {question[0].lower()}{question[1:]} is needed"
        raise ConfigError(
            f"{needed}, but there is no terminal to ask on",
            code="key-password",
            hint=f"set {' or '.join(PASSWORD_VARIABLES)}, or give --password-file",
        )
    return str(click.prompt(question, hide_input=True, err=True)).encode()


def _from_environment(name: str) -> bytes:
    variable = name.removeprefix(_ENVIRONMENT)
    try:
        return os.environ[variable].encode()
    except KeyError:
        raise ConfigError(
            f"{name}: the variable {variable} is not set", code="key-password"
        ) from None
