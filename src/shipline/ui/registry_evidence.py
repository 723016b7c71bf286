"""What speaks for an image of a release: what its registry has, its signatures and statements, and
the verdicts of gates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shipline.content import fetch_document
from shipline.deliver.delivery import Delivery
from shipline.deliver.promotion import JudgedGate
from shipline.deliver.promotion.evidence import judged_gates
from shipline.errors import ContentError, NotFound
from shipline.gates import ImageFacts, image_facts
from shipline.oci import PREDICATE_TYPE, Descriptor, Index, Manifest, Reference
from shipline.supply import (
    COSIGN_SIGN,
    Attachable,
    ClaimKind,
    PublicKey,
    Rejected,
    Statement,
    Verification,
    find_claims,
    short_name,
)
from shipline.trust import TrustPolicy, TrustVerdict

_WAIVED = "waived: "
OUTCOMES = {
    "pass": ("ok", "pass"),
    "fail": ("bad", "fail"),
    "error": ("bad", "error"),
    "incomplete": ("bad ask", "could not tell"),
    "waived": ("waived", "waived"),
    "skipped": ("", "skipped"),
}
"""The chip of an outcome: kind and word."""


@dataclass(frozen=True, slots=True)
class Attested:
    """A statement about an image, however often and in which form it is attached: its type, and
    the keys of the trust policy that signed it; with `kept` it stands in the image's own index,
    and the signature of the image is about it.
    """

    type: str
    signers: tuple[str, ...]
    kept: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SignedBy:
    """A signature by a key of the trust policy, or why one does not count."""

    key: str
    form: str
    identity: str = ""
    at: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RegistryEvidence:
    """What the registry has about one image. `verdict` is that of the trust policy, `signatures`
    are those that it looks at.
    """

    platforms: tuple[ImageFacts, ...]
    verdict: TrustVerdict
    signatures: tuple[SignedBy, ...]
    statements: tuple[Attested, ...]

    @property
    def size(self) -> int:
        """All platforms, compressed, in bytes."""
        return sum(one.size for one in self.platforms)


def evidence(delivery: Delivery, image: Reference, policy: TrustPolicy) -> RegistryEvidence:
    """Raises NotFound, and what the registry raises."""
    source = delivery.repositories(image)
    target = source.resolve(str(image.digest))
    keys = policy.keys_for(image)
    signatures = policy.signatures(source, image, target)
    return RegistryEvidence(
        platforms=image_facts(source, target).platforms,
        verdict=policy.verdict(source, image.at(target.digest), target),
        signatures=tuple(_signatures(signatures)) if signatures else (),
        statements=tuple(dict.fromkeys((*_attached(source, target, keys), *_kept(source, target)))),
    )


def _signatures(verification: Verification) -> Iterator[SignedBy]:
    for one in verification.signatures:
        yield SignedBy(one.key.name, str(one.form), one.identity, one.signed_at)
    for rejected in verification.rejected:
        yield SignedBy("", str(rejected.form), problem=rejected.reason)


def _attached(
    source: Attachable, target: Descriptor, keys: Sequence[PublicKey]
) -> Iterator[Attested]:
    for claim in find_claims(source, target, ClaimKind.ATTESTATION):
        if isinstance(claim, Rejected):
            yield Attested("", (), problem=claim.reason)
            continue
        try:
            statement = Statement.parse(claim.body)
        except ContentError as error:
            yield Attested("", (), problem=error.message)
            continue
        if statement.predicate_type == COSIGN_SIGN:  # a signature
            continue
        about = statement.subject_of(target.digest) is not None
        problem = "" if about else "it is about another digest"
        signers = tuple(key.name for key in claim.signers(keys))
        yield Attested(short_name(statement.predicate_type), signers, problem=problem)


def _kept(source: Attachable, target: Descriptor) -> Iterator[Attested]:
    """The statements that the build kept in the index; they are not read."""
    document = fetch_document(source, target)
    if not isinstance(document, Index):
        return
    found: dict[str, None] = {}
    for image in document.images:
        entry = document.attestation_of(image)
        listed = fetch_document(source, entry) if entry else None
        if isinstance(listed, Manifest):
            types = (layer.annotations.get(PREDICATE_TYPE, "") for layer in listed.layers)
            found |= dict.fromkeys(filter(None, types))
    yield from (Attested(short_name(kind), (), kept=True) for kind in found)


def is_there(delivery: Delivery, image: Reference) -> bool:
    """Whether a registry has the image. Raises what it raises if it cannot be asked."""
    try:
        delivery.repositories(image).resolve(str(image.digest))
    except NotFound:
        return False
    return True


def gates_of(delivery: Delivery, images: Sequence[Reference]) -> dict[str, dict[str, JudgedGate]]:
    """The verdicts by image and gate, worst first."""
    order = {"fail": 0, "error": 1, "incomplete": 2, "waived": 3, "pass": 4, "skipped": 5}
    return {
        digest: dict(sorted(gates.items(), key=lambda one: order.get(one[1].outcome, 0)))
        for digest, gates in judged_gates(delivery, images).items()
    }


def waivers(gates: Mapping[str, JudgedGate]) -> list[tuple[str, str]]:
    """What was waived, and why, as the gates wrote it: pairs of gate and text."""
    return [
        (name, line.removeprefix(_WAIVED))
        for name, gate in gates.items()
        for check in gate.checks
        for line in check.get("details", ())
        if isinstance(line, str) and line.startswith(_WAIVED)
    ]
