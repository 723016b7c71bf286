"""`shipline sign`: sign images in registries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from shipline.cli.signing import (
    annotations_of,
    image_option,
    open_images,
    password_option,
    private_keys,
)
from shipline.oci import Reference

FORMS = {"both": ("tag", "bundle"), "tag": ("tag",), "bundle": ("bundle",)}


@click.command("sign")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="A private key, or env://NAME.")
@password_option
@click.option(
    "-a",
    "--annotation",
    "annotations",
    multiple=True,
    metavar="K=V",
    help="An annotation to sign along.",
)
@click.option(
    "-r",
    "--recursive/--no-recursive",
    default=True,
    help="Sign the images of an index too (the default): podman looks at those.",
)
@click.option(
    "--identity",
    "--sign-container-identity",
    "identity",
    metavar="NAME",
    help="The name to sign, if not that of IMAGE.",
)
@click.option(
    "--form",
    type=click.Choice(list(FORMS)),
    default="both",
    show_default=True,
    help="The tag sha256-*.sig, or a sigstore bundle that refers to the image.",
)
@click.option("--again", is_flag=True, help="Sign even if this signature exists already.")
@image_option
def command(
    images: Sequence[str],
    keys: Sequence[str],
    password_file: Path | None,
    annotations: Sequence[str],
    recursive: bool,
    identity: str | None,
    form: str,
    again: bool,
    allow_http_registry: bool,
) -> None:
    """Sign IMAGE... with KEY, so that cosign, podman and shipline can verify it.

    What is signed is the digest that is behind the name now; it is printed. Signing again with the
    same key changes nothing.
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
                forms=[Form(one) for one in FORMS[form]],
                recursive=recursive,
                again=again,
            )
            for one in done:
                what = "signed" if one.attached else "was signed already"
                click.echo(f"{place.reference.name}@{one.target.digest} {what}", err=True)
            click.echo(str(place))
