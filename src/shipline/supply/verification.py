"""Which keys signed an image, and under which name: a verified signature, or a reason why it does
not count.

Stricter than cosign in what it accepts: the type of the payload, its fields, the media type of the
layer and the identity must be right, and everything is bounded. Bytes are parsed after the
signature over them was checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeVar

from shipline.content import Fetcher
from shipline.errors import ConfigError, ContentError, GateRefused, ShiplineError
from shipline.globs import glob
from shipline.oci import NO_ANNOTATIONS, Descriptor, Digest, Reference
from shipline.supply.claims import (
    DEFAULT_LIMITS,
    Claim,
    ClaimKind,
    EvidenceLimits,
    Form,
    Rejected,
    RejectReason,
    StatementSource,
    Unproven,
    claims_in,
    find_claims,
)
from shipline.supply.envelopes import SIMPLE_SIGNING, Envelope, SimplePayload
from shipline.supply.keys import PublicKey
from shipline.supply.statement import (
    COSIGN_SIGN,
    InvalidStatement,
    Statement,
    seconds,
    short_name,
    stated_time,
)
from shipline.values import replace

_OPTIONAL = "optional"


class _NameMatch(StrEnum):
    REPOSITORY = "repository"
    EXACT = "exact"
    TAGGED = "tagged"
    PATH = "path"
    ANY = "any"
    PATTERN = "pattern"


@dataclass(frozen=True, slots=True)
class ImagePattern:
    """A pattern of `host/repository`: `*` matches within one component, `**` also `/`. Without a
    host (`team/*`) it applies to every host.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError for characters that are invalid in names."""
        if not re.fullmatch(r"[a-zA-Z0-9._/*?:-]+", text) or "//" in text:
            raise ConfigError(
                f"not a pattern of images: {text!r}",
                hint="such as registry.example/team/*, **/app or **",
            )
        return cls(text)

    def matches(self, reference: Reference) -> bool:
        """Whether the name of `reference` matches; tag and digest are ignored."""
        name = reference.name if self.has_host else reference.repository
        return glob(self.text).fullmatch(name) is not None

    @property
    def has_host(self) -> bool:
        """Whether it begins with a host, or a pattern of hosts."""
        first, slash, _ = self.text.partition("/")
        return bool(slash) and (not first.strip("*") or bool(re.search(r"[.:]|^localhost$", first)))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Identity:
    """Which identities are accepted for an image.

    `optional`: the same host and repository where the signature carries a name; one without a name
    (as cosign 3 makes them) counts too. `repository`: it must carry the same host and repository.
    `exact`: also the same tag, and any where the image is asked for by digest. `tagged`: the same,
    and no image counts that is asked for without a tag. `path`: the same repository on any host,
    for mirrors and copies. `any`: not checked. Anything else is an ImagePattern that it must
    match.
    """

    rule: _NameMatch
    pattern: ImagePattern | None = None
    nameless: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError."""
        if text == _OPTIONAL:
            return cls(_NameMatch.REPOSITORY, nameless=True)
        if text in list(_NameMatch) and text != _NameMatch.PATTERN:
            return cls(_NameMatch(text))
        if not re.search("[/*]", text):
            raise ConfigError(
                f"not a rule of identity: {text!r}",
                hint=f"{_OPTIONAL}, repository, exact, tagged, path, any, "
                "or a pattern such as registry.example/team/*",
            )
        return cls(_NameMatch.PATTERN, ImagePattern.parse(text))

    def accepts(self, identity: str, name: Reference) -> bool:
        """Whether a signature with `identity` counts for the image `name`."""
        if self.rule is _NameMatch.ANY:
            return True
        if not identity:
            return self.nameless
        try:
            signed = Reference.parse(identity)
        except ShiplineError:
            return False
        if self.pattern is not None:
            return self.pattern.matches(signed)
        if self.rule is _NameMatch.PATH:
            return signed.repository == name.repository
        match self.rule:
            case _NameMatch.EXACT:
                same_tag = signed.tag == name.tag if name.tag else bool(signed.tag or signed.digest)
            case _NameMatch.TAGGED:
                same_tag = bool(name.tag) and signed.tag == name.tag
            case _:
                same_tag = True
        return signed.name == name.name and same_tag

    def on_any_host(self) -> Self:
        """The same rule for any host name."""
        return replace(self, rule=_NameMatch.PATH) if self.rule is _NameMatch.REPOSITORY else self

    def __str__(self) -> str:
        if self.nameless:
            return _OPTIONAL if self.rule is _NameMatch.REPOSITORY else f"{_OPTIONAL} ({self.rule})"
        return str(self.pattern or self.rule)


SAME_REPOSITORY = Identity(_NameMatch.REPOSITORY)
OPTIONAL = Identity(_NameMatch.REPOSITORY, nameless=True)


_REASONS = 20  # lines of an error


class SignatureRefused(GateRefused):
    """Required signatures are missing; `verdicts` are the reasons."""

    code = "signature"


@dataclass(frozen=True, slots=True)
class Signature:
    """Verified: `key` signed the digest under the name `identity`, with these annotations.
    `signed_at` is the time stated by the signer, in seconds since 1970; None if there is none.
    """

    key: PublicKey
    form: Form
    identity: str
    annotations: Mapping[str, Any] = field(hash=False)
    signed_at: float | None
    place: Digest


@dataclass(frozen=True, slots=True)
class VerifiedAttestation:
    """Verified: `key` signed the statement, which is about the digest; `envelope` has its bytes."""

    key: PublicKey
    form: Form
    statement: Statement
    envelope: Envelope
    made_at: float | None
    place: Digest
    manifest: Digest


@dataclass(frozen=True, slots=True)
class Verification:
    """The verified and the rejected signatures of `target`."""

    target: Descriptor
    signatures: tuple[Signature, ...]
    rejected: tuple[Rejected, ...]

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """The distinct keys that signed, in order of appearance."""
        return tuple(dict.fromkeys(signature.key for signature in self.signatures))


@dataclass(frozen=True, slots=True)
class Attestations:
    """The verified and the rejected attestations of one type on `target`."""

    target: Descriptor
    predicate_type: str
    proven: tuple[VerifiedAttestation, ...]
    rejected: tuple[Rejected, ...]


def examine(
    source: StatementSource,
    target: Descriptor,
    name: Reference,
    keys: Sequence[PublicKey],
    *,
    identity: Identity = SAME_REPOSITORY,
    annotations: Mapping[str, str] = NO_ANNOTATIONS,
    limits: EvidenceLimits = DEFAULT_LIMITS,
) -> Verification:
    """Check every signature of `target`, requested as `name`, against `keys`. Raises RegistryError
    or AuthError if the registry cannot be asked.
    """

    def check(claim: Claim, signers: tuple[PublicKey, ...]) -> list[Signature]:
        stated_name, stated_annotations, signed_at = _read(claim, target.digest)
        if not identity.accepts(stated_name, name):
            if not stated_name:
                raise Unproven(
                    RejectReason.NO_NAME,
                    f"it has no image name, but one is required (identity: {identity})",
                )
            reason = f"it is for {stated_name!r:.200}, not for {name.name} (identity: {identity})"
            raise Unproven(RejectReason.NAME, reason)
        for key, value in annotations.items():
            if stated_annotations.get(key) == value:
                continue
            stated = stated_annotations.get(key)
            reason = f"its annotation {key!r} is {stated!r:.100}"
            if stated is None:
                reason = f"it has no annotation {key!r}"
            raise Unproven(RejectReason.ANNOTATION, reason)
        return [
            Signature(key, claim.form, stated_name, stated_annotations, signed_at, claim.place)
            for key in signers
        ]

    claims = find_claims(source, target, ClaimKind.SIGNATURE, COSIGN_SIGN, limits)
    return Verification(target, *_sorted(claims, keys, check))


def verify(
    source: StatementSource,
    target: Descriptor,
    name: Reference,
    keys: Sequence[PublicKey],
    *,
    identity: Identity = SAME_REPOSITORY,
    annotations: Mapping[str, str] = NO_ANNOTATIONS,
    threshold: int = 1,
) -> Verification:
    """The verification of `target`, signed by at least `threshold` of `keys`. Raises
    SignatureRefused.
    """
    verification = examine(source, target, name, keys, identity=identity, annotations=annotations)
    if len(verification.keys) >= max(threshold, 1):
        return verification
    have = f"{len(verification.keys)} of {threshold} keys" if threshold > 1 else "no trusted key"
    more = "other " if verification.keys else ""
    sign = f"`shipline sign --key KEY {name.name}@{target.digest}`"
    raise SignatureRefused(
        f"{name.at(target.digest)}: {have} signed it",
        verdicts=reasons(verification.rejected, f"no {more}signature is attached to it"),
        hint=f"more keys must sign it: {sign}"
        if verification.keys
        else refusal_hint(verification.rejected, sign, "pass its public key with --key"),
    )


def refusal_hint(rejected: Sequence[Rejected], sign: str, trust: str) -> str:
    """The hint for rejected signatures, by the most specific reason. `sign` is how to sign the
    image, `trust` how to accept another key.
    """
    worst = min((rejection.why for rejection in rejected), key=lambda why: why.value, default=None)
    match worst:
        case RejectReason.NAME:
            return (
                "it was signed under another name: accept that name (--identity path for a copy, "
                f"a pattern, any; in a file, identity: path), or sign it under this one: {sign}"
            )
        case RejectReason.NO_NAME:
            return (
                "it was signed without a name: accept that (--identity optional), or sign it "
                f"with one: {sign}"
            )
        case RejectReason.ANNOTATION:
            return f"it was signed with other annotations: require those, or sign it again: {sign}"
        case RejectReason.DIGEST:
            return f"the attached signature is of another image: sign this one: {sign}"
        case RejectReason.KEY:
            return f"it was signed with another key: {trust}, or sign it with yours: {sign}"
        case RejectReason.UNUSABLE:
            return f"the attached signatures are not usable; add one: {sign}"
        case None:
            return f"sign it: {sign}"


def examine_attestations(
    source: StatementSource, target: Descriptor, keys: Sequence[PublicKey], predicate_type: str
) -> Attestations:
    """Check every attestation of this type on `target` against `keys`; other types are ignored.
    Raises RegistryError or AuthError if the registry cannot be asked.
    """

    def check(claim: Claim, signers: tuple[PublicKey, ...]) -> list[VerifiedAttestation]:
        statement = Statement.parse(claim.body)
        if statement.predicate_type != predicate_type:
            return []
        if statement.subject_of(target.digest) is None:
            raise Unproven(RejectReason.DIGEST, "the statement is about another digest")
        made_at = stated_time(statement.predicate)
        envelope = Envelope(claim.body, claim.signatures)
        return [
            VerifiedAttestation(
                key, claim.form, statement, envelope, made_at, claim.place, claim.manifest
            )
            for key in signers
        ]

    claims = find_claims(source, target, ClaimKind.ATTESTATION, predicate_type)
    proven, rejected = _sorted(claims, keys, check)
    return Attestations(target, predicate_type, proven, rejected)


def verify_attestations(
    source: StatementSource,
    target: Descriptor,
    name: Reference,
    keys: Sequence[PublicKey],
    predicate_type: str,
) -> Attestations:
    """The attestations of this type, at least one by one of `keys`. Raises SignatureRefused."""
    attestations = examine_attestations(source, target, keys, predicate_type)
    if attestations.proven:
        return attestations
    attach = f"`shipline attest --key KEY --type {short_name(predicate_type)} --predicate FILE`"
    raise SignatureRefused(
        f"{name.at(target.digest)}: no trusted key attested {predicate_type}",
        verdicts=reasons(attestations.rejected, "no attestation of this type is attached to it"),
        hint=refusal_hint(
            attestations.rejected, f"{attach} {name.at(target.digest)}", "pass it with --key"
        )
        if attestations.rejected
        else f"attach one with {attach} {name.at(target.digest)}",
    )


def proven_in(
    source: Fetcher, target: Descriptor, subject: Digest, keys: Sequence[PublicKey]
) -> set[Digest]:
    """The digests of statements about `subject` in the manifest `target` that one of `keys` signed:
    without a key nobody can add one.
    """
    return {
        Digest.of(claim.body)
        for claim in claims_in(source, target)
        if claim.signers(keys) and _is_about(claim, subject)
    }


def _is_about(claim: Claim, subject: Digest) -> bool:
    try:
        if claim.media_type == SIMPLE_SIGNING:
            return SimplePayload.parse(claim.body).digest == subject
        return Statement.parse(claim.body).subject_of(subject) is not None
    except ContentError:
        return False


def reasons(rejected: Sequence[Rejected], nothing: str) -> tuple[str, ...]:
    """The reasons as lines, equal ones together; `nothing` where there are none."""
    by_reason: dict[str, list[Rejected]] = {}
    for rejection in rejected:
        by_reason.setdefault(rejection.reason, []).append(rejection)
    lines = tuple(
        str(alike[0]) if len(alike) == 1 else f"{len(alike)} times: {reason}"
        for reason, alike in by_reason.items()
    )
    more = (f"and {len(lines) - _REASONS} more",) if len(lines) > _REASONS else ()
    return (*lines[:_REASONS], *more) or (nothing,)


_Proof = TypeVar("_Proof", Signature, VerifiedAttestation)


def _sorted(
    claims: Iterable[Claim | Rejected],
    keys: Sequence[PublicKey],
    check: Callable[[Claim, tuple[PublicKey, ...]], list[_Proof]],
) -> tuple[tuple[_Proof, ...], tuple[Rejected, ...]]:
    """What `check` verifies of the claims signed by one of `keys`, and the rejected ones."""
    proven: list[_Proof] = []
    rejected: list[Rejected] = []
    for claim in claims:
        if isinstance(claim, Rejected):
            rejected.append(claim)
            continue
        try:
            if not (signers := claim.signers(keys)):
                raise Unproven(RejectReason.KEY, "it was not made by any of the given keys")
            proven += check(claim, signers)
        except ContentError as error:
            why = error.why if isinstance(error, Unproven) else RejectReason.UNUSABLE
            rejected.append(Rejected(claim.place, claim.form, error.message, why))
    return tuple(proven), tuple(rejected)


def _read(claim: Claim, digest: Digest) -> tuple[str, Mapping[str, Any], float | None]:
    """Identity, annotations and time of a signature. Raises ContentError for another image's."""
    if claim.media_type == SIMPLE_SIGNING:
        payload = SimplePayload.parse(claim.body)
        if payload.digest != digest:
            raise Unproven(RejectReason.DIGEST, f"the payload is about {payload.digest}")
        return payload.identity, payload.optional, seconds(payload.optional.get("timestamp"))
    statement = Statement.parse(claim.body)
    if statement.predicate_type != COSIGN_SIGN:
        raise InvalidStatement(f"the statement is of type {statement.predicate_type!r:.200}")
    subject = statement.subject_of(digest)
    if subject is None:
        raise Unproven(RejectReason.DIGEST, "the statement is about another digest")
    predicate = statement.predicate
    time = seconds(predicate.get("timestamp")) if isinstance(predicate, Mapping) else None
    return subject.name, subject.annotations, time
