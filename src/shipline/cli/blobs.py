"""`shipline sign-blob` and `shipline verify-blob`: signatures of files, as cosign makes them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from shipline.cli.build_options import SwitchCommand
from shipline.cli.results import write_whole
from shipline.cli.signing import (
    cosign_signs,
    cosign_verifies,
    password_option,
    private_keys,
    public_keys,
)
from shipline.errors import ConfigError, ContentError, FlagConflict, InvalidFlag
from shipline.files import read_bounded, reading

SUFFIX = ".sigstore.json"
_LIMIT = 1 << 30  # bytes of a file: it is read into memory
_SIGNATURE_LIMIT = 1 << 16  # bytes
_SHORTEST = 64  # bytes of a signature
_UNSIGNED = "name the file of the signature with --bundle, or with --signature if it is alone"
_FILES = click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
_BUNDLE = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Where the signature is, of one FILE; by default FILE{SUFFIX}.",
)


@click.command("sign-blob", cls=SwitchCommand)
@_FILES
@click.option("--key", metavar="KEY", required=True, help="A private key, or env://NAME.")
@password_option
@_BUNDLE
@click.option(
    "--output-signature",
    "alone",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the signature of one FILE alone here, in base64; a bundle then needs --bundle.",
)
@cosign_signs
def sign(
    files: Sequence[Path],
    key: str,
    password_file: Path | None,
    bundle: Path | None,
    alone: Path | None,
) -> None:
    """Sign FILE... with KEY, so that `cosign verify-blob` and shipline can verify them.

    Each signature is written as a sigstore bundle beside its file, and its name is printed.
    """
    from shipline.supply import sign_blob, sign_detached

    pairs = _with_bundles(files, bundle) if alone is None or bundle is not None else []
    _check_one(files, alone, "--output-signature")
    for output in (alone, *(path for _, path in pairs)):
        if output is not None:
            _check_output(output, (Path(key), *files))
    (signer,) = private_keys([key], password_file)
    if alone is not None:
        write_whole(alone, sign_detached(_content(files[0], _LIMIT), signer) + "\n")
        click.echo(alone)
    for file, path in pairs:
        signed = sign_blob(_content(file, _LIMIT), signer)
        write_whole(path, signed.decode())
        click.echo(path)


@click.command("verify-blob", cls=SwitchCommand)
@_FILES
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    metavar="KEY",
    help="A public key, or env://NAME.",
)
@_BUNDLE
@click.option(
    "--signature",
    metavar="FILE",
    help="The signature of one FILE alone: a file with it, in base64 or not, or the base64 itself.",
)
@cosign_verifies
def verify(
    files: Sequence[Path], keys: Sequence[str], bundle: Path | None, signature: str | None
) -> None:
    """Verify that FILE... are signed with KEY, by `shipline sign-blob` or `cosign sign-blob`.

    Exits with 9 if one is not.
    """
    from shipline.supply import BUNDLE_LIMIT, verify_blob, verify_detached

    if signature is not None and bundle is not None:
        raise FlagConflict("--bundle and --signature exclude each other")
    pairs = _with_bundles(files, bundle) if signature is None else []
    _check_one(files, signature, "--signature")
    trusted = public_keys(keys)
    if signature is not None:
        given = _signature(signature)
        signer = verify_detached(str(files[0]), _content(files[0], _LIMIT), given, trusted)
        click.echo(f"{files[0]}: signed by {signer.name}")
    for file, path in pairs:
        content, signed = _content(file, _LIMIT), _content(path, BUNDLE_LIMIT, _UNSIGNED)
        try:
            signer = verify_blob(str(file), content, signed, trusted)
        except ContentError as error:
            error.name_part(str(path))
            raise
        click.echo(f"{file}: signed by {signer.name}")


def _check_one(files: Sequence[Path], value: object, name: str) -> None:
    """Raises UsageError if an option for one file has a value, and there are several."""
    if value is not None and len(files) > 1:
        raise FlagConflict(f"{name} is the signature of one file")


def _signature(text: str) -> bytes:
    """What is in the file `text`; without one the text, if it is base64 of enough bytes."""
    path = Path(text)
    try:
        is_text = len(base64.b64decode(text, validate=True)) >= _SHORTEST and not path.exists()
    except (ValueError, OSError):
        is_text = False
    return text.encode() if is_text else _content(path, _SIGNATURE_LIMIT)


def _with_bundles(files: Sequence[Path], bundle: Path | None) -> list[tuple[Path, Path]]:
    for file in files:
        if not file.name or file.name == "..":
            raise InvalidFlag(f"{file} is a directory")
        if str(file) == "-":
            raise InvalidFlag("- is not a file", hint="/dev/stdin < FILE, with --bundle")
        if bundle is None and file.is_relative_to("/dev"):
            raise InvalidFlag(f"{file} has no place for a bundle", hint=_UNSIGNED)
        if bundle is None and file.name.endswith(SUFFIX):
            raise InvalidFlag(f"{file} is a bundle", hint="name the file that it signs")
    if bundle is None:
        return [(file, file.with_name(file.name + SUFFIX)) for file in files]
    _check_one(files, bundle, "--bundle")
    return [(files[0], bundle)]


def _check_output(output: Path, inputs: Iterable[Path]) -> None:
    """Raise UsageError for an output that would replace the key or a file that is signed."""
    for one in inputs:
        with suppress(OSError):  # one that is not there, env://NAME
            if output.samefile(one) and output.is_file():
                raise FlagConflict(
                    f"{output} is an input: the signature would replace it",
                    hint="write the signature to another file",
                )


def _content(path: Path, limit: int, hint: str = "") -> bytes:
    with reading(path, ConfigError, hint=hint):
        return read_bounded(path, limit)
