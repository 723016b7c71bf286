"""`shipline key`: generate, import and inspect signing keys."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shipline.cli.program import CommandGroup
from shipline.cli.results import write_whole
from shipline.cli.signing import new_password, password_of, password_option

_PREFIX = click.option(
    "-o",
    "--output-key-prefix",
    "prefix",
    type=click.Path(path_type=Path),
    default=Path("shipline"),
    show_default=True,
    metavar="PREFIX",
    help="Write PREFIX.key and PREFIX.pub.",
)
_FORCE = click.option("-f", "--force", is_flag=True, help="Replace existing files.")


@click.group("key", cls=CommandGroup)
def group() -> None:
    """Generate, import and inspect signing keys."""


@group.command("generate")
@_PREFIX
@password_option
@_FORCE
def generate(prefix: Path, password_file: Path | None, force: bool) -> None:
    """Generate an ECDSA P-256 key pair: PREFIX.key and PREFIX.pub.

    The private key is encrypted with a password, in cosign's format. Prints the id of the key.
    """
    from shipline.supply import KeyFiles, check_free, generate_key, write_key_pair

    check_free(KeyFiles(Path(f"{prefix}.key"), Path(f"{prefix}.pub")), replace=force)
    password = new_password(f"{prefix}.key", password_file)
    key = generate_key(str(prefix))
    files = write_key_pair(key, prefix, password, replace=force)
    click.echo(f"private key: {files.private} (keep it secret, and back it up)", err=True)
    click.echo(f"public key:  {files.public} (to verify signatures; not secret)", err=True)
    click.echo(key.public.id)


@group.command("import")
@click.option("--key", "source", type=click.Path(path_type=Path), required=True, metavar="FILE")
@_PREFIX
@password_option
@click.option(
    "--source-password-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The current password of the key, if it is encrypted.",
)
@_FORCE
def import_key(
    source: Path,
    prefix: Path,
    password_file: Path | None,
    source_password_file: Path | None,
    force: bool,
) -> None:
    """Import a private key in PEM format (PKCS #8, SEC 1, PKCS #1 or cosign's) as PREFIX.key."""
    from shipline.supply import KeyFiles, check_free, read_private_key, write_key_pair

    check_free(KeyFiles(Path(f"{prefix}.key"), Path(f"{prefix}.pub")), replace=force)
    key = read_private_key(source, password_of(str(source), source_password_file or password_file))
    password = new_password(f"{prefix}.key", password_file)
    files = write_key_pair(key, prefix, password, replace=force)
    click.echo(f"private key: {files.private}\npublic key:  {files.public}", err=True)
    click.echo(key.public.id)


@group.command("public")
@click.argument("key", type=click.Path(path_type=Path), metavar="KEY")
@password_option
@click.option("--outfile", type=click.Path(path_type=Path), metavar="FILE")
def public(key: Path, password_file: Path | None, outfile: Path | None) -> None:
    """Print the public key of the private KEY."""
    from shipline.supply import read_private_key

    public_key = read_private_key(key, password_of(str(key), password_file)).public
    if outfile is None:
        click.echo(public_key.pem.decode(), nl=False)
    else:
        write_whole(outfile, public_key.pem.decode())


@group.command("inspect")
@click.argument("key", type=click.Path(path_type=Path), metavar="KEY")
@password_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def inspect(key: Path, password_file: Path | None, output: str) -> None:
    """Show kind, algorithm and id of KEY; a private key requires its password."""
    from shipline.supply import PublicKey, parse_private_key, read_pem

    pem = read_pem(key)
    private = b"PRIVATE KEY-----" in pem
    if private:
        public_key = parse_private_key(pem, str(key), password_of(str(key), password_file)).public
    else:
        public_key = PublicKey.parse(pem, str(key))
    facts = {
        "file": str(key),
        "kind": "private" if private else "public",
        "algorithm": public_key.algorithm,
        "id": public_key.id,
        "hint": public_key.hint,
    }
    if output == "json":
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo("\n".join(f"{name + ':':<11}{value}" for name, value in facts.items()))
