"""What gates said of images: in statements attached to them, else in runs of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from shipline.deliver.delivery import Delivery
from shipline.deliver.promotion.policy import JudgedGate
from shipline.gates import SUMMARY_TYPE
from shipline.oci import Reference
from shipline.supply import examine_attestations


def judged_gates(
    delivery: Delivery, images: Iterable[Reference]
) -> dict[str, dict[str, JudgedGate]]:
    """The newest verdict of each gate, by the digest of the image. A statement counts if a key of
    the trust policy signed it; runs are asked for gates that no statement has.
    """
    return {str(image.digest): _of_image(delivery, image) for image in images if image.digest}


def _of_image(delivery: Delivery, image: Reference) -> dict[str, JudgedGate]:
    assert image.digest is not None
    attested = _newest(_attested(delivery, image))
    required = () if delivery.gates is None else [name for name, _, _ in delivery.gates.gates()]
    if attested and attested.keys() >= set(required):
        return attested
    own = ((summary, "") for summary in delivery.summaries(image.digest))
    return {**_newest(own), **attested}


def _attested(delivery: Delivery, image: Reference) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The summaries of gates in statements about the image that a trusted key signed, each with the
    name of the key.
    """
    keys = delivery.trust.keys_for(image) if delivery.trust else ()
    if not keys:
        return
    source = delivery.repositories(image)
    found = examine_attestations(source, source.resolve(str(image.digest)), keys, SUMMARY_TYPE)
    for proven in found.proven:
        if isinstance(proven.statement.predicate, Mapping):
            yield proven.statement.predicate, proven.key.name


def _newest(summaries: Iterable[tuple[Mapping[str, Any], str]]) -> dict[str, JudgedGate]:
    """The newest verdict of each gate; what is not as gates write it is left out."""
    newest: dict[str, JudgedGate] = {}
    for judged in (one for summary, signer in summaries for one in _judged(summary, signer)):
        before = newest.get(judged.gate)
        if before is None or judged.at > before.at:
            newest[judged.gate] = judged
    return newest


def _judged(summary: Mapping[str, Any], signer: str) -> Iterator[JudgedGate]:
    try:
        at = datetime.fromisoformat(summary["judgedAt"]).timestamp()
        for gate in summary["gates"]:
            yield JudgedGate(
                gate=str(gate["gate"]),
                outcome=str(gate["outcome"]),
                blocks=gate["blocks"] is not False,
                reason=str(gate["reason"]),
                at=at,
                environment=str(summary.get("environment", "")),
                checks=tuple(one for one in gate.get("checks", ()) if isinstance(one, Mapping)),
                signer=signer,
            )
    except (KeyError, TypeError, ValueError, AttributeError):
        return
