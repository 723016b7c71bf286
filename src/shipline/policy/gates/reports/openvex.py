"""OpenVEX documents (version 0.2.0)."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, moment
from shipline.policy.gates.reports.vex import Vex, VexStatement

_CONTEXT = "https://openvex.dev/ns"
_STATUSES = ("not_affected", "affected", "fixed", "under_investigation")


def parse(source: BinaryIO) -> Report:
    """`not_affected` needs a justification or an impact statement, as the specification says."""
    reader = JsonReader(source)
    value = Fields(reader.value(), "the document")
    reader.finish()
    if not str(value.having("statements").raw("@context")).startswith(_CONTEXT):
        raise ReportError("not an OpenVEX document: its @context is another")
    statements = [_statement(one, value.text("timestamp")) for one in value.children("statements")]
    created = moment(value.text("timestamp"))
    vex = Vex(tuple(statements), value.text("author"))
    return Report("openvex", vex, created=created)


def _statement(value: Fields, document_time: str) -> VexStatement:
    named = value.raw("vulnerability")
    about = value.child("vulnerability") if isinstance(named, dict) else Fields({"name": named}, "")
    status = value.text("status")
    reason = value.text("justification") or value.text("impact_statement")
    if status not in _STATUSES or not about.text("name"):
        raise ReportError(f"not a statement about a vulnerability: status {status[:40]!r}")
    if status == "not_affected" and not reason:
        raise ReportError(f"{about.text('name')}: not_affected without a justification")
    products = [_fields(one) for one in value.listing("products")]
    return VexStatement(
        about.text("name"),
        status,
        about.texts("aliases"),
        tuple(_purl(one) for one in products),
        tuple(_purl(_fields(part)) for one in products for part in one.listing("subcomponents")),
        reason,
        moment(value.text("last_updated") or value.text("timestamp") or document_time),
    )


def _fields(value: object) -> Fields:
    """Products were plain texts before version 0.2."""
    return Fields({"@id": value} if isinstance(value, str) else value, "a product")


def _purl(value: Fields) -> str:
    return value.child("identifiers").text("purl") or value.text("@id")
