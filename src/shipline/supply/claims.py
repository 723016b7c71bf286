"""What is attached to an image: everything that claims to be a signature or an attestation.

Nothing here is proven. There are three forms: layers of the manifest under the tag
`sha256-<hex>.sig` or `.att`; the same layers in a manifest that refers to the image; and sigstore
bundles that refer to the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Protocol, runtime_checkable

from shipline.content import Fetcher, Repository, Resolver, Swapper, fetch_all, fetch_document
from shipline.errors import ContentError, NotFound
from shipline.oci import Descriptor, Digest, Manifest, media
from shipline.supply.envelopes import (
    BUNDLE,
    ENVELOPE,
    IN_TOTO,
    PAYLOAD_LIMIT,
    SIMPLE_SIGNING,
    Bundle,
    Envelope,
    InvalidSignature,
    from_base64,
)
from shipline.supply.keys import PublicKey


class Referring(Protocol):
    """Lists the referrers of a manifest (distribution specification, "Listing Referrers")."""

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """The manifests whose subject is `target`, of one artifact type if given."""


class StatementSource(Fetcher, Resolver, Referring, Protocol):
    """Where statements are read from: a registry, or the storage of a node."""


class Attachable(Repository, Referring, Swapper, Protocol):
    """Where statements are attached to images."""


@runtime_checkable
class _Mirrored(Protocol):
    @property
    def unmirrored(self) -> Attachable: ...


def at_the_source(repository: Attachable) -> Attachable:
    """The repository without its mirrors: a stale mirror's answer must not be written back."""
    return repository.unmirrored if isinstance(repository, _Mirrored) else repository


SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"
LAYER_PREDICATE = "predicateType"
COSIGN_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
_REFERRING = {BUNDLE, COSIGN_ARTIFACT, media.OCI_EMPTY, ""}  # cosign mislabels in fallback tags
_TAG_LIMIT = 128  # characters


class Form(StrEnum):
    """How a claim is attached."""

    TAG = "tag"
    REFERRER = "referrer"
    BUNDLE = "bundle"


class ClaimKind(StrEnum):
    """The kind of claim; the value is the suffix of its tag."""

    SIGNATURE = "sig"
    ATTESTATION = "att"


_LAYERS = {ClaimKind.SIGNATURE: SIMPLE_SIGNING, ClaimKind.ATTESTATION: ENVELOPE}


@dataclass(frozen=True, slots=True)
class EvidenceLimits:
    """Limits on the evidence that is read; anything beyond does not count."""

    statements: int = 256  # in one manifest, or as referrers
    envelope: int = 16 << 20  # bytes of one attestation
    total: int = 64 << 20  # bytes of all that is read for one image


DEFAULT_LIMITS = EvidenceLimits()


@dataclass(frozen=True, slots=True)
class Claim:
    """`signatures` claim to sign `message`, which contains `body`: a payload or a statement.
    `place` is the blob with the claim, `manifest` the manifest that lists the blob.
    """

    place: Digest
    manifest: Digest
    form: Form
    media_type: str
    body: bytes
    message: bytes
    signatures: tuple[bytes, ...]

    def signers(self, keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
        """Those of `keys` that signed the message."""
        return tuple(
            key
            for key in keys
            if any(key.verify(signature, self.message) for signature in self.signatures)
        )


class RejectReason(Enum):
    """Why an attachment proves nothing; the most specific reason first."""

    NAME = auto()
    NO_NAME = auto()
    ANNOTATION = auto()
    DIGEST = auto()
    KEY = auto()
    UNUSABLE = auto()


class Unproven(ContentError):
    """The claim does not prove what is required."""

    code = "signature-unproven"

    def __init__(self, reason: RejectReason, message: str) -> None:
        super().__init__(message)
        self.why = reason


@dataclass(frozen=True, slots=True)
class Rejected:
    """An attachment that proves nothing, and why."""

    place: Digest | None
    form: Form
    reason: str
    why: RejectReason = RejectReason.UNUSABLE

    def __str__(self) -> str:
        return f"{self.form} {self.place or ''}: {self.reason}".replace(" :", ":")


def attachment_tag(digest: Digest, kind: ClaimKind) -> str:
    """The tag of statements about `digest`; empty if it would be too long."""
    tag = f"{digest.algorithm}-{digest.hex}.{kind}"
    return tag if len(tag) <= _TAG_LIMIT else ""


def find_claims(
    source: StatementSource,
    target: Descriptor,
    kind: ClaimKind,
    predicate_type: str = "",
    limits: EvidenceLimits = DEFAULT_LIMITS,
) -> Iterator[Claim | Rejected]:
    """All claims about `target`, each once; with `predicate_type` only of that type. Raises what
    the registry raises if it cannot be asked.
    """
    budget = dict.fromkeys(Form, limits.total)  # a full tag does not reduce the limit of referrers
    seen: set[tuple[Form, bytes, tuple[bytes, ...]]] = set()
    for form, place, manifest in _manifests(source, target, kind, predicate_type, limits):
        if isinstance(manifest, str):
            yield Rejected(place, form, manifest)
            continue
        for layer in manifest.layers:
            if not _may_be(layer, predicate_type):
                continue
            if layer.size > budget[form]:
                yield Rejected(layer.digest, form, f"too much is attached: over {limits.total} B")
                continue
            budget[form] -= layer.size
            claim = _claim(source, layer, form, place, kind, limits)
            if isinstance(claim, Rejected):
                yield claim
            elif (key := (form, claim.body, claim.signatures)) not in seen:
                seen.add(key)
                yield claim


_Place = tuple[Form, Digest, Manifest | str]


def _manifests(
    source: StatementSource,
    target: Descriptor,
    kind: ClaimKind,
    predicate_type: str,
    limits: EvidenceLimits,
) -> Iterator[_Place]:
    """The manifests that may have claims, or the reason why one cannot be used."""
    if tag := attachment_tag(target.digest, kind):
        try:
            yield _opened(source, source.resolve(tag), Form.TAG, limits)
        except NotFound:
            pass
        except ContentError as error:
            yield Form.TAG, target.digest, error.message
    try:
        candidates = [
            referrer
            for referrer in source.referrers(target)
            if referrer.artifact_type in _REFERRING and _may_be(referrer, predicate_type)
        ]
    except ContentError as error:
        yield Form.BUNDLE, target.digest, error.message
        return
    for candidate in candidates[: limits.statements]:
        form, place, manifest = _opened(source, candidate, Form.BUNDLE, limits)
        if isinstance(manifest, Manifest):
            if manifest.subject is None or manifest.subject.digest != target.digest:
                manifest = "it refers to another image"
            elif manifest.artifact_type != BUNDLE:
                if manifest.config.media_type != COSIGN_ARTIFACT or kind is not ClaimKind.SIGNATURE:
                    continue
                form = Form.REFERRER
            elif not _may_be(manifest, predicate_type):
                continue
        yield form, place, manifest
    if len(candidates) > limits.statements:
        reason = f"{len(candidates)} referrers, more than the {limits.statements} that are read"
        yield Form.BUNDLE, target.digest, reason


def claims_in(source: Fetcher, target: Descriptor) -> Iterator[Claim]:
    """All claims of the manifest `target`, of either kind."""
    limits = DEFAULT_LIMITS
    form, place, manifest = _opened(source, target, Form.TAG, limits)
    left = limits.total
    for layer in () if isinstance(manifest, str) else manifest.layers:
        left -= layer.size
        if left < 0:
            return
        form = Form.BUNDLE if layer.media_type == BUNDLE else Form.TAG
        kind = ClaimKind.SIGNATURE if layer.media_type == SIMPLE_SIGNING else ClaimKind.ATTESTATION
        claim = _claim(source, layer, form, place, kind, limits)
        if isinstance(claim, Claim):
            yield claim


def _may_be(manifest: Descriptor | Manifest, predicate_type: str) -> bool:
    stated = manifest.annotations.get(PREDICATE_ANNOTATION) or manifest.annotations.get(
        LAYER_PREDICATE, ""
    )
    return not stated or not predicate_type or stated == predicate_type


def _opened(source: Fetcher, descriptor: Descriptor, form: Form, limits: EvidenceLimits) -> _Place:
    try:
        manifest = fetch_document(source, descriptor)
    except ContentError as error:
        return form, descriptor.digest, error.message
    if not isinstance(manifest, Manifest):
        return form, descriptor.digest, "it is an index, not a manifest"
    if not 0 < len(manifest.layers) <= limits.statements:
        count = len(manifest.layers)
        reason = f"{count} signatures, more than {limits.statements}" if count else "it is empty"
        return form, descriptor.digest, reason
    return form, descriptor.digest, manifest


def _claim(
    source: Fetcher,
    layer: Descriptor,
    form: Form,
    manifest: Digest,
    kind: ClaimKind,
    limits: EvidenceLimits,
) -> Claim | Rejected:
    expected = BUNDLE if form is Form.BUNDLE else _LAYERS[kind]
    try:
        if layer.media_type != expected:
            raise InvalidSignature(f"the layer has the media type {layer.media_type!r:.100}")
        if expected == SIMPLE_SIGNING:
            body = message = fetch_all(source, layer, PAYLOAD_LIMIT)
            signatures: tuple[bytes, ...] = (_annotated_signature(layer),)
        else:
            envelope = _envelope(fetch_all(source, layer, limits.envelope), expected)
            body, message, signatures = envelope.payload, envelope.message, envelope.signatures
    except ContentError as error:
        return Rejected(layer.digest, form, error.message)
    return Claim(layer.digest, manifest, form, expected, body, message, signatures)


def _envelope(raw: bytes, media_type: str) -> Envelope:
    envelope = Bundle.parse(raw).envelope if media_type == BUNDLE else Envelope.parse(raw)
    if envelope.payload_type != IN_TOTO:
        raise InvalidSignature(f"the envelope is of type {envelope.payload_type!r:.100}")
    return envelope


def _annotated_signature(layer: Descriptor) -> bytes:
    text = layer.annotations.get(SIGNATURE_ANNOTATION, "")
    if not text:
        raise InvalidSignature(f"the layer lacks the annotation {SIGNATURE_ANNOTATION}")
    return from_base64(text)
