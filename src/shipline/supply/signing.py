"""Signing images, and attaching signed statements (attestations) to them, in every form that
verifiers look for.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from shipline import __version__
from shipline.content import successors
from shipline.errors import InvalidFlag, NotFound, RegistryError, UsageError
from shipline.oci import MAX_DEPTH, NO_ANNOTATIONS, Descriptor, Reference, media
from shipline.supply.attachments import (
    FORMS,
    AttachmentLayer,
    attach_bundle,
    attach_layers,
    attach_settled,
)
from shipline.supply.claims import (
    LAYER_PREDICATE,
    SIGNATURE_ANNOTATION,
    Attachable,
    ClaimKind,
    Form,
    at_the_source,
    attachment_tag,
)
from shipline.supply.envelopes import (
    ENVELOPE,
    IN_TOTO,
    SIMPLE_SIGNING,
    Bundle,
    Envelope,
    SimplePayload,
    pae,
)
from shipline.supply.keys import PrivateKey, PublicKey
from shipline.supply.statement import COSIGN_SIGN, Statement
from shipline.supply.verification import VerifiedAttestation, examine, examine_attestations

_RESERVED = frozenset({"creator", "timestamp"})  # containers/image gives these types


@dataclass(frozen=True, slots=True)
class Signed:
    """The signatures that were attached to `target`; empty if all existed already."""

    target: Descriptor
    attached: tuple[Descriptor, ...]


def sign(
    repository: Attachable,
    target: Descriptor,
    reference: Reference,
    signers: Sequence[PrivateKey],
    *,
    annotations: Mapping[str, str] = NO_ANNOTATIONS,
    forms: Sequence[Form] = FORMS,
    recursive: bool = True,
    again: bool = False,
    clock: Callable[[], float] = time.time,
) -> tuple[Signed, ...]:
    """Sign `target` with each of `signers`; for an index, its images first.

    `reference` is the signed identity, with the tag that the image will get, since podman's default
    rule compares it. An existing signature with this identity and these annotations is not repeated
    unless `again` is set. The tag of an image need not exist yet. What others wrote over meanwhile
    is attached again; raises ContentError where that does not end.
    """
    if reserved := sorted(_RESERVED & annotations.keys()):
        raise InvalidFlag(f"the annotation {reserved[0]!r} is reserved")
    if not signers:
        raise UsageError("there is no key to sign with", code="key-missing", hint="pass --key KEY")
    repository = at_the_source(repository)
    targets = [*signable(repository, target)] if recursive else [target.plain]
    signings = [_Signing(repository, target, reference, annotations, clock) for target in targets]
    return tuple(signing.run(signers, forms, again) for signing in signings)


def signable(repository: Attachable, target: Descriptor) -> Iterator[Descriptor]:
    """The images of an index, then the index, which covers the attestations inside it."""
    yield from dict.fromkeys(_walk(repository, target, MAX_DEPTH))


def _walk(repository: Attachable, target: Descriptor, depth: int) -> Iterator[Descriptor]:
    if target.media_type in media.INDEXES and depth:
        for child in successors(repository, target):
            runs = child.platform is None or child.platform.os != "unknown"
            if runs and child.media_type in media.NAMED:
                yield from _walk(repository, child, depth - 1)
    yield target.plain


@dataclass(frozen=True, slots=True)
class _Signing:
    """One image that is being signed."""

    repository: Attachable
    target: Descriptor
    reference: Reference
    annotations: Mapping[str, str]
    clock: Callable[[], float]

    @property
    def identity(self) -> str:
        return str(self.reference.at(None))

    def run(self, signers: Sequence[PrivateKey], forms: Sequence[Form], again: bool) -> Signed:
        unique = {signer.public: signer for signer in signers}
        before = self._done(tuple(unique)) if again else {}

        def attach() -> list[Descriptor]:
            proven = self._done(tuple(unique))
            done = {claim for claim, count in proven.items() if count > before.get(claim, 0)}
            return self._attach(unique, forms, done)

        kind = ClaimKind.SIGNATURE
        return Signed(self.target, attach_settled(self.repository, self.target, kind, attach))

    def _attach(
        self,
        signers: Mapping[PublicKey, PrivateKey],
        forms: Sequence[Form],
        done: set[tuple[PublicKey, Form]],
    ) -> list[Descriptor]:
        attached: list[Descriptor] = []
        missing = [signer for key, signer in signers.items() if (key, Form.TAG) not in done]
        if (
            Form.TAG in forms
            and missing
            and attachment_tag(self.target.digest, ClaimKind.SIGNATURE)
        ):
            pieces = [self._piece(signer) for signer in missing]
            attached.append(
                attach_layers(self.repository, self.target, ClaimKind.SIGNATURE, pieces)
            )
        if Form.BUNDLE in forms:
            missing = [signer for key, signer in signers.items() if (key, Form.BUNDLE) not in done]
            attached += map(self._bundle, missing)
        return attached

    def _done(self, keys: Sequence[PublicKey]) -> Counter[tuple[PublicKey, Form]]:
        """The number of existing signatures of each key, by form."""
        verification = examine(self.repository, self.target, self.reference, keys)
        return Counter(
            (signature.key, signature.form)
            for signature in verification.signatures
            if signature.identity == self.identity
            and _added(signature.annotations) == dict(self.annotations)
        )

    def _piece(self, signer: PrivateKey) -> AttachmentLayer:
        optional = {**self.annotations, **self._made()}
        content = SimplePayload(self.identity, self.target.digest, optional).to_bytes()
        signature = base64.b64encode(signer.sign(content)).decode()
        return AttachmentLayer(content, SIMPLE_SIGNING, {SIGNATURE_ANNOTATION: signature})

    def _bundle(self, signer: PrivateKey) -> Descriptor:
        statement = Statement.about(
            self.target, self.identity, COSIGN_SIGN, self._made(), annotations=self.annotations
        )
        bundle = sign_statement(statement.to_bytes(), signer)
        return attach_bundle(self.repository, self.target, bundle, COSIGN_SIGN, self.clock())

    def _made(self) -> dict[str, Any]:
        return {"creator": f"shipline {__version__}", "timestamp": int(self.clock())}


def sign_statement(statement: bytes, signer: PrivateKey) -> Bundle:
    """A statement in an envelope that `signer` signed."""
    envelope = Envelope(statement, (signer.sign(pae(IN_TOTO, statement)),))
    return Bundle(envelope, signer.public.hint)


def _added(annotations: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in annotations.items() if key not in _RESERVED}


STATEMENT_LIMIT = 11 << 20  # bytes; in base64 and an envelope below the limit of verification


@runtime_checkable
class _Deleting(Protocol):
    def delete(self, reference: str) -> None: ...


def attest(
    repository: Attachable,
    target: Descriptor,
    statement: Statement,
    signers: Sequence[PrivateKey],
    *,
    forms: Sequence[Form] = FORMS,
    replace: bool = False,
    clock: Callable[[], float] = time.time,
) -> Signed:
    """Attach `statement`, signed by each of `signers`, to its image. An identical one is not
    repeated. `replace` removes earlier statements of this type by the same keys, if the registry
    supports deletion. Raises UsageError for a statement about another image, and for one too large
    to be verified.
    """
    repository, content = at_the_source(repository), _checked(statement, target)
    if not signers:
        raise UsageError("there is no key to sign with", code="key-missing", hint="pass --key KEY")
    unique = {signer.public: signer for signer in signers}
    kind = statement.predicate_type

    def attach() -> list[Descriptor]:
        proven = examine_attestations(repository, target, tuple(unique), kind).proven
        same = {
            (attestation.key, attestation.form)
            for attestation in proven
            if attestation.envelope.payload == content
        }
        old = [
            attestation
            for attestation in proven
            if replace and attestation.envelope.payload != content
        ]
        attached: list[Descriptor] = []
        if Form.TAG in forms and attachment_tag(target.digest, ClaimKind.ATTESTATION):
            missing = [signer for key, signer in unique.items() if (key, Form.TAG) not in same]
            pieces = [_piece(kind, content, signer) for signer in missing]
            attached += _under_tag(repository, target, pieces, old)
        for signer in [s for key, s in unique.items() if (key, Form.BUNDLE) not in same]:
            if Form.BUNDLE in forms:
                bundle = sign_statement(content, signer)
                attached.append(attach_bundle(repository, target, bundle, kind, clock()))
        _delete_bundles(repository, old)
        return attached

    return Signed(target, attach_settled(repository, target, ClaimKind.ATTESTATION, attach))


def _checked(statement: Statement, target: Descriptor) -> bytes:
    content = statement.to_bytes()
    if statement.subject_of(target.digest) is None:
        raise UsageError(f"the statement is not about {target.digest}", code="predicate-invalid")
    if len(content) > STATEMENT_LIMIT:
        raise UsageError(
            f"the statement has {len(content)} bytes, more than {STATEMENT_LIMIT}",
            code="predicate-invalid",
        )
    return content


def _under_tag(
    repository: Attachable,
    target: Descriptor,
    pieces: list[AttachmentLayer],
    old: Sequence[VerifiedAttestation],
) -> list[Descriptor]:
    outdated = {attestation.place for attestation in old if attestation.form is Form.TAG}
    if not pieces and not outdated:
        return []
    return [
        attach_layers(
            repository,
            target,
            ClaimKind.ATTESTATION,
            pieces,
            drop=lambda layer: layer.digest in outdated,
        )
    ]


def _piece(kind: str, content: bytes, signer: PrivateKey) -> AttachmentLayer:
    envelope = sign_statement(content, signer).envelope.to_bytes()
    annotations = {SIGNATURE_ANNOTATION: "", LAYER_PREDICATE: kind}
    return AttachmentLayer(envelope, ENVELOPE, annotations)


def _delete_bundles(repository: Attachable, old: Sequence[VerifiedAttestation]) -> None:
    if not isinstance(repository, _Deleting):
        return
    for manifest in {
        attestation.manifest for attestation in old if attestation.form is Form.BUNDLE
    }:
        with suppress(NotFound, RegistryError):  # many registries do not allow deletion
            repository.delete(str(manifest))


def statement_about(
    target: Descriptor, reference: Reference, predicate_type: str, predicate: object
) -> Statement:
    """A statement about an image; a predicate that is not a JSON object is wrapped as in cosign."""
    value = predicate if isinstance(predicate, dict) else {"Data": predicate}
    return Statement.about(target, str(reference.at(None)), predicate_type, value)
