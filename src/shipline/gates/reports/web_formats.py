"""Reports of scanners of running services: ZAP's JSON and Nuclei's JSON.

Sources: ZAP, "Report Generation: Traditional JSON Report", also "with Requests and Responses", and
"Constants" (risk, confidence); Nuclei, "Output" (JSON lines, JSON export).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from html import unescape
from typing import BinaryIO

from shipline.gates.reports.fields import Fields, parse_count
from shipline.gates.reports.report import (
    Confidence,
    Finding,
    FindingLevel,
    Report,
    ReportError,
    Severity,
    Tool,
    WebFindings,
    fingerprint_of,
    parse_time,
    target_of,
)
from shipline.gates.reports.streams import JsonReader

_MESSAGE = 500  # characters kept
_RISKS = (Severity.NEGLIGIBLE, Severity.LOW, Severity.MEDIUM, Severity.HIGH)
_ALERT = ("pluginid", "alertRef", "alert", "name", "riskcode", "confidence")
_INSTANCE = ("uri", "method", "param")
_NUCLEI = (
    *("template-id", "info", "host", "url", "matched-at", "matcher-name", "matcher-status"),
    *("timestamp", "error", "confidence"),
)


def parse_zap(source: BinaryIO) -> Report:
    """The alerts, one finding for each instance. A report without sites is a gap: nothing was
    reached. So are the errors of an automation plan.
    """
    reader = JsonReader(source)
    texts: dict[str, str] = {}
    findings: list[Finding] = []
    targets: set[str] = set()
    gaps: list[str] = []
    has_sites = False
    for key in reader.members():
        if key in ("@programName", "@version", "created"):
            texts[key] = Fields({key: reader.value()}, "the report").text(key)
        elif key == "site":
            has_sites = True
            for _ in reader.elements():
                findings += _site(reader, targets)
        elif key == "afPlanErrors" and reader.kind() == "[":
            errors = Fields({key: reader.value()}, "the report").texts(key)
            gaps += [f"the automation plan failed: {error[:_MESSAGE]}" for error in errors]
    reader.finish()
    if "@version" not in texts or not has_sites:
        raise ReportError("not ZAP's JSON: it has no @version or no site")
    if not targets:
        gaps.append("ZAP reached no site")
    return Report(
        "zap",
        WebFindings(tuple(findings), frozenset(targets)),
        created=parse_time(texts.get("created", "")),
        tool=Tool((texts.get("@programName") or "ZAP")[:100], texts["@version"][:50]),
        gaps=tuple(gaps),
    )


def _site(reader: JsonReader, targets: set[str]) -> Iterator[Finding]:
    name, alerts = "", list[tuple[Fields, list[Fields]]]()
    has_alerts = False
    for key in reader.members():
        if key == "@name":
            name = unescape(Fields({key: reader.value()}, "a site").name(key))
        elif key == "alerts":
            has_alerts = True
            for _ in reader.elements():
                alerts.append(_alert(reader))
    if not name or not has_alerts:
        raise ReportError("a site of ZAP's report has no @name or no alerts")
    targets.add(target_of(name))
    for alert, instances in alerts:
        for instance in instances or [Fields({}, "an instance")]:
            yield _zap_finding(alert, instance, name)


def _alert(reader: JsonReader) -> tuple[Fields, list[Fields]]:
    members: dict[str, object] = {}
    instances: list[Fields] = []
    for key in reader.members():
        if key == "instances" and reader.kind() == "[":
            for _ in reader.elements():
                kept = {key: reader.value() for key in reader.members() if key in _INSTANCE}
                instances.append(Fields(kept, "an instance"))
        elif key in _ALERT:
            members[key] = reader.value()
    return Fields(members, "an alert").require("riskcode"), instances


def _zap_finding(alert: Fields, instance: Fields, site: str) -> Finding:
    risk = parse_count(alert.name("riskcode"), "riskcode")
    if risk >= len(_RISKS):
        raise ReportError(f"riskcode is not a risk of ZAP: {risk}")
    title = unescape(alert.text("alert") or alert.text("name"))
    rule = alert.text("alertRef") or alert.name("pluginid")
    where = " ".join(filter(None, (instance.text("method"), unescape(instance.text("param")))))
    return Finding(
        rule,
        FindingLevel(min(risk, FindingLevel.ERROR)),
        f"{title} ({where})"[:_MESSAGE] if where else title[:_MESSAGE],
        unescape(instance.text("uri")) or site,
        severity=_RISKS[risk],
        fingerprint=fingerprint_of(title, where),
        tool="ZAP",
        confidence=_confidence(alert.text("confidence")),
    )


def _confidence(text: str) -> Confidence | None:
    number = parse_count(text, "confidence") if text else len(Confidence)
    return Confidence(number) if number < len(Confidence) else None


def parse_nuclei(source: BinaryIO) -> Report:
    """The matches of JSON lines, or of a JSON export. With `-matcher-status` a report also has
    what did not match, which shows that something was scanned; if only errors are listed, nothing
    was reached, which is a gap.

    Raises ReportError for a list without elements, which shows nothing.
    """
    reader = JsonReader(source)
    findings: list[Finding] = []
    targets: set[str] = set()
    errors: list[str] = []
    times: list[datetime] = []
    elements = reader.elements() if reader.kind() == "[" else reader.documents()
    is_empty = True
    for _ in elements:
        is_empty = False
        kept = {key: reader.value() for key in reader.members() if key in _NUCLEI}
        event = Fields(kept, "a result of Nuclei").require("template-id", "info")
        times += filter(None, [parse_time(event.text("timestamp"))])
        if error := event.text("error"):
            errors.append(error)
            continue
        place = event.text("matched-at") or event.text("url") or event.text("host")
        if not place:
            raise ReportError("a result of Nuclei has no host, url or matched-at")
        targets |= {target_of(text) for key in ("url", "host") if (text := event.text(key))}
        targets.add(target_of(place))
        if "matcher-status" not in event or event.flag("matcher-status"):
            findings.append(_nuclei_finding(event, place))
    reader.finish()
    if is_empty:
        raise ReportError(
            "it lists nothing that was scanned",
            hint="run nuclei with -matcher-status: then it also lists what did not match",
        )
    gaps = () if targets else (f"Nuclei reached nothing: {next(iter(errors), '')}"[:_MESSAGE],)
    return Report(
        "nuclei",
        WebFindings(tuple(findings), frozenset(filter(None, targets))),
        created=max(times, default=None),
        tool=Tool("Nuclei"),
        gaps=gaps,
    )


def _nuclei_finding(event: Fields, place: str) -> Finding:
    info = event.child("info").require("name", "severity")
    matcher = event.text("matcher-name")
    name = info.name("name")
    return Finding(
        event.name("template-id"),
        FindingLevel.WARNING,
        f"{name} ({matcher})"[:_MESSAGE] if matcher else name[:_MESSAGE],
        place,
        severity=Severity.named(info.text("severity")),
        fingerprint=fingerprint_of(name, matcher),
        tool="Nuclei",
        confidence=Confidence.named(event.text("confidence")),
    )
