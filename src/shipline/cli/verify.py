"""`shipline verify` and `shipline verify-attestation`: verify who signed images."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.build_options import SwitchCommand
from shipline.cli.signing import (
    ImageAddress,
    annotations_of,
    cosign_verifies,
    image_option,
    open_images,
    public_keys,
)
from shipline.errors import ConfigError, FlagConflict, UsageError
from shipline.files import reading
from shipline.units import rfc3339
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.supply import Signature, VerifiedAttestation
    from shipline.trust import ResolvedPolicy, TrustVerdict

_KEYS = click.option(
    "--key", "keys", multiple=True, metavar="KEY", help="A public key, or env://NAME."
)
_POLICY_LIMIT = 1 << 20  # bytes
_OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)


@click.command("verify", cls=SwitchCommand)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_KEYS
@click.option(
    "--threshold",
    type=click.IntRange(1),
    default=1,
    help="How many different keys must have signed.",
)
@click.option(
    "-a",
    "--annotation",
    "annotations",
    multiple=True,
    metavar="K=V",
    help="An annotation that signatures must have.",
)
@click.option(
    "--identity",
    default="optional",
    show_default=True,
    metavar="RULE",
    help="The signed name: repository, exact, tagged, path, any or a pattern; optional: the"
    " repository, or no name.",
)
@click.option(
    "--type", "kind", metavar="TYPE", help="Verify attestations of this type, not signatures."
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Apply the section trust of this shipline.yaml, or a policy.json of podman.",
)
@_OUTPUT
@image_option
@cosign_verifies
def command(
    images: Sequence[str],
    keys: Sequence[str],
    threshold: int,
    annotations: Sequence[str],
    identity: str,
    kind: str | None,
    policy: Path | None,
    output: str,
    allow_http_registry: bool,
) -> None:
    """Verify that IMAGE... is signed: with KEY, or as the trust policy of the project requires.

    Prints the verified digest. Exits with 9 if a signature is missing, with 6 or 7 if the registry
    could not be asked.
    """
    if policy is not None and keys:
        raise FlagConflict("--policy and --key exclude each other")
    if kind is not None:
        _verify_attestations(images, keys, kind, output, allow_http_registry)
        return
    if not keys:
        _judge(images, _trust(policy), output, allow_http_registry)
        return
    from shipline.supply import Identity, verify

    rule, trusted, extra = Identity.parse(identity), public_keys(keys), annotations_of(annotations)
    with open_images(images, plain=allow_http_registry) as places:
        for place in places:
            signatures = verify(
                place.repository,
                place.target,
                place.reference,
                trusted,
                identity=rule,
                annotations=extra,
                threshold=threshold,
            )
            _show(place, signatures.signatures, output)


@click.command("verify-attestation", cls=SwitchCommand)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_KEYS
@click.option("--type", "kind", default="custom", show_default=True, metavar="TYPE")
@_OUTPUT
@image_option
@cosign_verifies
def attestation(
    images: Sequence[str], keys: Sequence[str], kind: str, output: str, allow_http_registry: bool
) -> None:
    """Verify that IMAGE... has an attestation of TYPE, signed with KEY; prints who signed it."""
    _verify_attestations(images, keys, kind, output, allow_http_registry)


def _verify_attestations(
    images: Sequence[str], keys: Sequence[str], kind: str, output: str, plain: bool
) -> None:
    from shipline.supply import predicate_type, verify_attestations

    uri, trusted = predicate_type(kind), public_keys(keys)
    if not trusted:
        raise UsageError(
            "there is no key to verify with", code="key-missing", hint="pass --key PUBLIC_KEY"
        )
    with open_images(images, plain=plain) as places:
        for place in places:
            attestations = verify_attestations(
                place.repository, place.target, place.reference, trusted, uri
            )
            if output == "json":
                for text in dict.fromkeys(map(_envelope, attestations.proven)):
                    click.echo(text)
            else:
                lines = [_attested(attestation) for attestation in attestations.proven]
                click.echo("\n".join([str(place), *lines]))


def _show(place: ImageAddress, signatures: Sequence[Signature], output: str) -> None:
    if output == "json":
        click.echo(json.dumps([_as_cosign(place, signature) for signature in signatures]))
    else:
        lines = [str(place), *map(_line, signatures)]
        if all(not signature.identity for signature in signatures):
            lines.append(_NAMELESS)
        click.echo("\n".join(lines))


def _judge(images: Sequence[str], trust: ResolvedPolicy, output: str, plain: bool) -> None:
    from shipline.trust import TrustPolicy

    judge = TrustPolicy(trust)
    with open_images(images, plain=plain) as places:
        for place in places:
            verdict = judge.require(place.repository, place.reference, place.target)
            if output == "json":
                click.echo(json.dumps(_verdict(place, verdict)))
            else:
                click.echo(f"{place}\n  {verdict.reason} (rule: {verdict.rule})")


def _trust(policy: Path | None) -> ResolvedPolicy:
    from shipline.config import load
    from shipline.trust import load_trust, read_containers_policy

    if policy is not None and policy.suffix == ".json":
        rules = load_trust(read_containers_policy(_content(policy)), policy.absolute().parent)
        return replace(rules, as_podman=True)
    config = load(policy, Path.cwd(), os.environ)
    section = config.trust
    if section is None or not section.rules or config.file is None:
        raise UsageError(
            "there is no key and no trust policy to verify with",
            code="key-missing",
            hint="pass --key PUBLIC_KEY, or add a section `trust` to shipline.yaml",
        )
    return load_trust(section, config.file.parent)


def _content(path: Path) -> bytes:
    with reading(path, ConfigError), path.open("rb") as file:
        return file.read(_POLICY_LIMIT)


def _verdict(place: ImageAddress, verdict: TrustVerdict) -> dict[str, Any]:
    return {
        "image": str(place),
        "accepted": verdict.accepted,
        "rule": verdict.rule,
        "reason": verdict.reason,
        "keys": list(verdict.keys),
    }


def _as_cosign(place: ImageAddress, signature: Signature) -> dict[str, Any]:
    """A signature with the fields that `cosign verify` prints, and more."""
    return {
        "critical": {
            "identity": {"docker-reference": signature.identity},
            "image": {"docker-manifest-digest": str(place.target.digest)},
            "type": "cosign container image signature",
        },
        "optional": dict(signature.annotations) or None,
        "key": {
            "name": signature.key.name,
            "id": signature.key.id,
            "algorithm": signature.key.algorithm,
        },
        "form": str(signature.form),
        "signedAt": None if signature.signed_at is None else rfc3339(signature.signed_at),
    }


def _line(signature: Signature) -> str:
    shown = {key: value for key, value in signature.annotations.items() if key not in _OURS}
    extra = "".join(f" {key}={value}" for key, value in sorted(shown.items()))
    when = f" at {rfc3339(signature.signed_at)}" if signature.signed_at is not None else ""
    name = f" as {signature.identity}" if signature.identity else ", without a name"
    return f"  signed by {signature.key.name}{name}{when} ({signature.form}){extra}"


def _attested(attestation: VerifiedAttestation) -> str:
    when = f" of {rfc3339(attestation.made_at)}" if attestation.made_at is not None else ""
    kind, signer = attestation.statement.predicate_type, attestation.key.name
    return f"  {kind}{when}, signed by {signer} ({attestation.form})"


def _envelope(attestation: VerifiedAttestation) -> str:
    return attestation.envelope.to_bytes().decode()


_NAMELESS = (
    "  note: a signature without a name is valid in every repository that the image is copied to; "
    "--identity repository requires a name"
)
_OURS = frozenset({"creator", "timestamp"})
