"""`shipline sign-blob` and `shipline verify-blob`: signatures of files, in bundles as of cosign."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from shipline.cli.results import write_whole
from shipline.cli.signing import password_option, private_keys, public_keys
from shipline.errors import ConfigError, ContentError, UsageError
from shipline.files import read_bounded

SUFFIX = ".sigstore.json"
_LIMIT = 1 << 30  # bytes of a file: it is read into memory
_UNSIGNED = "name the file of the signature with --bundle"
_FILES = click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
_BUNDLE = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Where the signature is, of one FILE; by default FILE{SUFFIX}.",
)


@click.command("sign-blob")
@_FILES
@click.option("--key", metavar="KEY", required=True, help="A private key, or env://NAME.")
@password_option
@_BUNDLE
def sign(files: Sequence[Path], key: str, password_file: Path | None, bundle: Path | None) -> None:
    """Sign FILE... with KEY, so that `cosign verify-blob` and shipline can verify them.

    Each signature is written as a sigstore bundle beside its file, and its name is printed.
    """
    from shipline.supply import sign_blob

    pairs = _with_bundles(files, bundle)
    (signer,) = private_keys([key], password_file)
    for file, path in pairs:
        signed = sign_blob(_content(file, _LIMIT), signer)
        write_whole(path, signed.decode())
        click.echo(path)


@click.command("verify-blob")
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
def verify(files: Sequence[Path], keys: Sequence[str], bundle: Path | None) -> None:
    """Verify that FILE... are signed with KEY, by `shipline sign-blob` or `cosign sign-blob`.

    Exits with 9 if one is not.
    """
    from shipline.supply import BUNDLE_LIMIT, verify_blob

    pairs = _with_bundles(files, bundle)
    trusted = public_keys(keys)
    for file, path in pairs:
        content, signed = _content(file, _LIMIT), _content(path, BUNDLE_LIMIT, _UNSIGNED)
        try:
            signer = verify_blob(str(file), content, signed, trusted)
        except ContentError as error:
            error.name_part(str(path))
            raise
        click.echo(f"{file}: signed by {signer.name}")


def _with_bundles(files: Sequence[Path], bundle: Path | None) -> list[tuple[Path, Path]]:
    for file in files:
        if not file.name or file.name == "..":
            raise UsageError(f"{file} is a directory", code="flag-value")
        if str(file) == "-":
            raise UsageError(
                "- is not a file", code="flag-value", hint="/dev/stdin < FILE, with --bundle"
            )
        if bundle is None and file.is_relative_to("/dev"):
            raise UsageError(f"{file} has no place for a bundle", code="flag-value", hint=_UNSIGNED)
        if bundle is None and file.name.endswith(SUFFIX):
            raise UsageError(
                f"{file} is a bundle", code="flag-value", hint="name the file that it signs"
            )
    if bundle is None:
        return [(file, file.with_name(file.name + SUFFIX)) for file in files]
    if len(files) > 1:
        raise UsageError("--bundle is the signature of one file", code="flag-conflict")
    return [(files[0], bundle)]


def _content(path: Path, limit: int, hint: str = "") -> bytes:
    try:
        return read_bounded(path, limit)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", code="file-unreadable", hint=hint
        ) from error
