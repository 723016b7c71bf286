"""Attesting: signed statements about an image, attached to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, runtime_checkable

from shipline.errors import NotFound, RegistryError, UsageError
from shipline.oci import Descriptor, Reference
from shipline.supply.attach import FORMS, Piece, attach_bundle, attach_layers, attach_settled
from shipline.supply.claims import LAYER_PREDICATE, SIGNATURE_ANNOTATION, Form, Kind, attachment_tag
from shipline.supply.envelopes import ENVELOPE
from shipline.supply.keys import PrivateKey
from shipline.supply.protocols import Attachable, at_the_source
from shipline.supply.sign import Signed, sign_statement
from shipline.supply.statement import Statement
from shipline.supply.verify import Attestation, examine_attestations

STATEMENT_LIMIT = 11 << 20  # bytes; in base64 and an envelope still below what is verified


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
    """Attach `statement`, signed by each of `signers`, to the image that it is about.

    One that is there already, byte for byte, is not repeated. `replace` takes away what the same
    keys attested of this type before, where the registry can delete. Raises UsageError for a
    statement about another image, and for one that is too large to be verified.
    """
    repository, content = at_the_source(repository), _checked(statement, target)
    if not signers:
        raise UsageError("there is no key to sign with", hint="name one with --key")
    unique = {one.public: one for one in signers}
    kind = statement.predicate_type

    def attach() -> list[Descriptor]:
        proven = examine_attestations(repository, target, tuple(unique), kind).proven
        same = {(one.key, one.form) for one in proven if one.envelope.payload == content}
        old = [one for one in proven if replace and one.envelope.payload != content]
        attached: list[Descriptor] = []
        if Form.TAG in forms and attachment_tag(target.digest, Kind.ATTESTATION):
            missing = [one for key, one in unique.items() if (key, Form.TAG) not in same]
            pieces = [_piece(kind, content, one) for one in missing]
            attached += _under_tag(repository, target, pieces, old)
        for one in [k for key, k in unique.items() if (key, Form.BUNDLE) not in same]:
            if Form.BUNDLE in forms:
                bundle = sign_statement(content, one)
                attached.append(attach_bundle(repository, target, bundle, kind, clock()))
        _delete_bundles(repository, old)
        return attached

    return Signed(target, attach_settled(repository, target, Kind.ATTESTATION, attach))


def _checked(statement: Statement, target: Descriptor) -> bytes:
    content = statement.to_bytes()
    if statement.subject_of(target.digest) is None:
        raise UsageError(f"the statement is not about {target.digest}")
    if len(content) > STATEMENT_LIMIT:
        raise UsageError(f"the statement has {len(content)} bytes, more than {STATEMENT_LIMIT}")
    return content


def _under_tag(
    repository: Attachable, target: Descriptor, pieces: list[Piece], old: Sequence[Attestation]
) -> list[Descriptor]:
    outdated = {one.place for one in old if one.form is Form.TAG}
    if not pieces and not outdated:
        return []
    return [
        attach_layers(
            repository,
            target,
            Kind.ATTESTATION,
            pieces,
            drop=lambda layer: layer.digest in outdated,
        )
    ]


def _piece(kind: str, content: bytes, signer: PrivateKey) -> Piece:
    envelope = sign_statement(content, signer).envelope.to_bytes()
    annotations = {SIGNATURE_ANNOTATION: "", LAYER_PREDICATE: kind}
    return Piece(envelope, ENVELOPE, annotations)


def _delete_bundles(repository: Attachable, old: Sequence[Attestation]) -> None:
    if not isinstance(repository, _Deleting):
        return
    for manifest in {one.manifest for one in old if one.form is Form.BUNDLE}:
        with suppress(NotFound, RegistryError):  # many registries have deletes off
            repository.delete(str(manifest))


def statement_about(
    target: Descriptor, reference: Reference, predicate_type: str, predicate: object
) -> Statement:
    """A statement about an image; a predicate that is no JSON object is wrapped as cosign does."""
    value = predicate if isinstance(predicate, dict) else {"Data": predicate}
    return Statement.about(target, str(reference.at(None)), predicate_type, value)
