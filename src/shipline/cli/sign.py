"""`shipline sign` and `shipline attest`: sign images in registries, attach signed statements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shipline.cli.build_options import SwitchCommand
from shipline.cli.signing import (
    ImageAddress,
    annotations_of,
    cosign_signs,
    image_option,
    open_images,
    password_option,
    private_keys,
)
from shipline.errors import FlagConflict, UsageError
from shipline.files import reading
from shipline.oci import Reference

if TYPE_CHECKING:
    from shipline.supply import Statement


FORMS = {"both": ("tag", "bundle"), "tag": ("tag",), "bundle": ("bundle",)}


@click.command("sign", cls=SwitchCommand)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="A private key, or env://NAME.")
@password_option
@click.option(
    "-a",
    "--annotation",
    "annotations",
    multiple=True,
    metavar="K=V",
    help="An annotation to include in the signature.",
)
@click.option(
    "-r",
    "--recursive/--no-recursive",
    default=None,  # SwitchCommand reads --recursive=false
    help="Also sign the images of an index (the default): podman checks those.",
)
@click.option(
    "--identity",
    "--sign-container-identity",
    "identity",
    metavar="NAME",
    help="The name to sign, by default IMAGE.",
)
@click.option(
    "--form",
    type=click.Choice(list(FORMS)),
    default="both",
    show_default=True,
    help="Where to store it: the tag sha256-*.sig, a sigstore bundle as referrer, or both.",
)
@click.option("--again", is_flag=True, help="Sign even if there is such a signature.")
@image_option
@cosign_signs
def command(
    images: Sequence[str],
    keys: Sequence[str],
    password_file: Path | None,
    annotations: Sequence[str],
    recursive: bool | None,
    identity: str | None,
    form: str,
    again: bool,
    allow_http_registry: bool,
) -> None:
    """Sign IMAGE... with KEY, so that cosign, podman and shipline can verify it.

    Signs the digest that the name currently resolves to, and prints it. Signing again with the same
    key changes nothing.
    """
    from shipline.supply import Form, sign

    extra = annotations_of(annotations)
    name = Reference.parse(identity) if identity else None
    signers = private_keys(keys, password_file)
    with open_images(images, plain=allow_http_registry) as places:
        for place in places:
            done = sign(
                place.repository,
                place.target,
                name or place.reference,
                signers,
                annotations=extra,
                forms=[Form(name) for name in FORMS[form]],
                recursive=recursive is not False,
                again=again,
            )
            for signed in done:
                what = "signed" if signed.attached else "is already signed"
                click.echo(f"{place.reference.name}@{signed.target.digest} {what}", err=True)
            click.echo(str(place))


_LIMIT = 64 << 20  # bytes of a file; statements are limited further


@click.command("attest", cls=SwitchCommand)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="A private key, or env://NAME.")
@password_option
@click.option("--predicate", metavar="FILE", help="The predicate in JSON; - for standard input.")
@click.option(
    "--type",
    "kind",
    default="custom",
    show_default=True,
    metavar="TYPE",
    help="slsaprovenance1, spdx, cyclonedx, vuln, openvex, test-result, vsa, custom, or a URI.",
)
@click.option("--statement", metavar="FILE", help="A complete in-toto statement instead.")
@click.option(
    "--replace", is_flag=True, help="Remove earlier statements of this type by the same key."
)
@click.option("--form", type=click.Choice(list(FORMS)), default="both", show_default=True)
@image_option
@cosign_signs
def attest_command(
    images: Sequence[str],
    keys: Sequence[str],
    password_file: Path | None,
    predicate: str | None,
    kind: str,
    statement: str | None,
    replace: bool,
    form: str,
    allow_http_registry: bool,
) -> None:
    """Attach a statement about IMAGE..., signed with KEY: an SBOM, provenance, a scan result.

    Attaching the same statement again changes nothing.
    """
    from shipline.supply import Form, attest

    if (predicate is None) == (statement is None):
        raise FlagConflict("give either --predicate FILE or --statement FILE")
    content = _read(predicate or statement or "")
    signers = private_keys(keys, password_file)
    with open_images(images, plain=allow_http_registry) as places:
        statements = [
            _statement(place, content, kind, whole=statement is not None) for place in places
        ]
        for place, about in zip(places, statements, strict=True):
            done = attest(
                place.repository,
                place.target,
                about,
                signers,
                forms=[Form(name) for name in FORMS[form]],
                replace=replace,
            )
            what = "attested" if done.attached else "is already attested"
            click.echo(f"{place} {what}: {about.predicate_type}", err=True)
            click.echo(str(place))


def _statement(place: ImageAddress, content: bytes, kind: str, *, whole: bool) -> Statement:
    from shipline.supply import Statement, predicate_type, statement_about

    if whole:
        return Statement.parse(content)
    uri = predicate_type(kind)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        if kind != "custom":
            raise UsageError(
                f"--predicate: a predicate of type {kind} must be JSON", code="predicate-invalid"
            ) from None
        value = content.decode(errors="replace")
    if not isinstance(value, dict) and kind != "custom":
        raise UsageError(
            f"--predicate: a predicate of type {kind} must be a JSON object",
            code="predicate-invalid",
        )
    return statement_about(place.target, place.reference, uri, value)


def _read(path: str) -> bytes:
    with reading(path), click.open_file(path, "rb") as file:
        content: bytes = file.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise UsageError(
            f"{path} is larger than {_LIMIT >> 20} MiB: too large to attach",
            code="predicate-invalid",
        )
    return content
