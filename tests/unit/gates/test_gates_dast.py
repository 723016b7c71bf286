"""Dynamic analysis: what counts, and that the service itself was scanned."""

from __future__ import annotations

from typing import Any

import pytest
from foreign_samples import BANDIT, GITLEAKS
from gate_samples import ESLINT, NUCLEI_MATCH, SARIF, ZAP, ZAP_ALERT, json_lines, parsed
from judging import CONTEXT, baseline_after, evidence, verdict_of, waiver

from shipline.errors import ConfigError
from shipline.gates import DastGate, FindingsGate, Outcome, Severity
from shipline.gates.reports import Confidence, Report, ReportError, WebFindings, target_of
from shipline.units import Duration
from shipline.values import replace

RULES = DastGate()
HERE = "https://staging.example/healthz"


def zap(*alerts: dict[str, Any], site: str = "https://staging.example", **more: Any) -> Any:
    (first,) = ZAP["site"]
    return {**ZAP, "site": [{**first, "@name": site, "alerts": [*alerts]}], **more}


def alert(**more: Any) -> dict[str, Any]:
    return {**ZAP_ALERT, **more}


def nuclei(**more: Any) -> dict[str, Any]:
    return {**NUCLEI_MATCH, **more}


def severe(severity: str) -> dict[str, Any]:
    return nuclei(info={**NUCLEI_MATCH["info"], "severity": severity})


def findings(report: Report) -> Any:
    assert isinstance(report.content, WebFindings)
    return report.content.findings


def test_an_alert_of_zap_is_read_with_its_place_risk_and_confidence() -> None:
    (found,) = findings(parsed(ZAP))
    assert (found.rule, found.severity, found.confidence) == (
        "40012-1",
        Severity.HIGH,
        Confidence.MEDIUM,
    )
    assert found.path == "https://staging.example/login?next=%2F"
    assert found.message == "Cross Site Scripting (Reflected) (GET next)"
    assert parsed(ZAP).content.targets == {"staging.example:443"}  # type: ignore[union-attr]


OLD = {
    "@version": "2.9.0",
    "@generated": "Thu, 1 Jan 2026 11:30:00",
    "site": [
        {
            "@name": "http://staging.example:8080",
            "@host": "staging.example",
            "@port": "8080",
            "@ssl": "false",
            "alerts": [
                {
                    "pluginid": "10010",
                    "alert": "Cookie No HttpOnly Flag",
                    "name": "Cookie No HttpOnly Flag",
                    "riskcode": "1",
                    "confidence": "2",
                    "riskdesc": "Low (Medium)",
                    "instances": [
                        {"uri": "http://staging.example:8080/", "method": "GET", "param": "sid"},
                        {"uri": "http://staging.example:8080/a", "method": "GET", "param": "sid"},
                    ],
                    "count": "2",
                    "cweid": "16",
                }
            ],
        }
    ],
}
PLUS = {
    **ZAP,
    "site": [
        {
            **ZAP["site"][0],
            "alerts": [
                {
                    **ZAP_ALERT,
                    "instances": [
                        {
                            **ZAP_ALERT["instances"][0],
                            "request-header": "GET https://staging.example/login HTTP/1.1",
                            "request-body": "",
                            "response-header": "HTTP/1.1 200 OK",
                            "response-body": "x" * 100_000,
                        }
                    ],
                    "tags": [{"tag": "OWASP_2021_A03", "link": "https://owasp.example"}],
                }
            ],
            "statistics": {"stats.code.200": 4},
        }
    ],
    "sequences": [],
    "statistics": {"stats.script.call": 1},
    "insights": [{"level": "Low", "reason": "Info", "description": "4xx", "statistic": "12"}],
    "afPlanErrors": [],
    "afPlanWarns": ["a warning"],
}


@pytest.mark.parametrize(
    ("document", "rules", "target"),
    [(OLD, ["10010", "10010"], "staging.example:8080"), (PLUS, ["40012-1"], "staging.example:443")],
)
def test_reports_of_older_and_newer_versions_of_zap_are_read(
    document: Any, rules: list[str], target: str
) -> None:
    report = parsed(document)
    assert [one.rule for one in findings(report)] == rules and report.gaps == ()
    assert report.content.targets == {target}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("risk", "outcome"), [("3", "fail"), ("2", "fail"), ("1", "pass"), ("0", "pass")]
)
def test_alerts_count_from_medium_on(risk: str, outcome: str) -> None:
    assert verdict_of(RULES, zap(alert(riskcode=risk))).outcome == outcome


@pytest.mark.parametrize(
    ("confidence", "least", "outcome"),
    [
        ("0", Confidence.LOW, "pass"),
        ("1", Confidence.LOW, "fail"),
        ("1", Confidence.MEDIUM, "pass"),
        ("4", Confidence.HIGH, "fail"),
        ("", Confidence.CONFIRMED, "fail"),
    ],
)
def test_alerts_count_from_a_confidence_on(
    confidence: str, least: Confidence, outcome: str
) -> None:
    rules = DastGate(confidence=least)
    assert verdict_of(rules, zap(alert(confidence=confidence))).outcome == outcome


@pytest.mark.parametrize(
    ("severity", "outcome"),
    [("critical", "fail"), ("medium", "fail"), ("low", "pass"), ("info", "pass")],
)
def test_matches_of_nuclei_count_from_medium_on(severity: str, outcome: str) -> None:
    assert verdict_of(RULES, json_lines(severe(severity))).outcome == outcome


def test_a_severity_that_nobody_knows_counts() -> None:
    assert verdict_of(RULES, json_lines(severe("unknown"))).outcome is Outcome.FAIL


def test_a_json_export_of_nuclei_is_read_like_its_lines() -> None:
    assert parsed([NUCLEI_MATCH]).content == parsed(json_lines(NUCLEI_MATCH)).content


def test_a_scan_that_reached_nothing_does_not_pass() -> None:
    failed = nuclei(**{"matcher-status": False, "error": "connection refused", "matched-at": ""})
    plan: dict[str, Any] = {"afPlanErrors": ["Job spider failed to access URL"]}
    for document, reason in (
        ({**ZAP, "site": []}, "ZAP reached no site"),
        (zap(**plan), "the automation plan failed: Job spider failed"),
        (json_lines(failed), "Nuclei reached nothing: connection refused"),
    ):
        verdict = verdict_of(RULES, document)
        assert verdict.outcome is Outcome.INCOMPLETE and reason in verdict.reason


def test_nuclei_without_matches_passes_only_if_it_says_what_it_tried() -> None:
    tried = nuclei(**{"matcher-status": False, "matched-at": ""})
    verdict = verdict_of(DastGate(target=HERE), json_lines(tried))
    assert verdict.outcome is Outcome.PASS
    with pytest.raises(ReportError) as refused:
        parsed(b"", "nuclei")
    assert "is empty" in refused.value.message
    with pytest.raises(ReportError) as refused:
        parsed([], "nuclei")
    assert "-matcher-status" in refused.value.hint


@pytest.mark.parametrize(
    ("target", "outcome"),
    [
        ("https://staging.example", "pass"),
        ("https://staging.example:443/app", "pass"),
        ("http://staging.example", "incomplete"),
        ("https://staging.example:8443", "incomplete"),
        ("https://production.example", "incomplete"),
    ],
)
def test_a_scan_of_another_service_proves_nothing(target: str, outcome: str) -> None:
    verdict = verdict_of(DastGate(target=target), zap())
    assert verdict.outcome == outcome
    assert outcome == "pass" or "is about staging.example:443, not http" in verdict.reason


def test_a_host_without_a_port_is_that_host() -> None:
    """Nuclei's templates for DNS and other protocols have no port."""
    event = nuclei(host="staging.example", url="", **{"matched-at": "staging.example"})
    rules = DastGate(target=HERE, fail_on=Severity.CRITICAL)
    assert verdict_of(rules, json_lines(event)).outcome is Outcome.PASS
    assert target_of("https://[::1]:8/x") == "::1:8" and target_of("https://:x") == ""


def sarif(tool: str, *results: Any, rule: Any = None, text: str = "found") -> Any:
    rules = [{"id": "R", **(rule or {})}]
    driver = {"name": tool, "semanticVersion": "1.0.0", "rules": rules}
    return {"version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": [*results]}]}


def result(level: str = "error", uri: str = "https://staging.example/a", **more: Any) -> Any:
    place = {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}
    message = {"text": "found"}
    found = {"ruleId": "R", "level": level, "locations": [{"physicalLocation": place}]}
    return {**found, "message": message, **more}


@pytest.mark.parametrize(
    ("level", "confidence", "outcome"),
    [
        ("error", "medium", "fail"),
        ("warning", "high", "fail"),
        ("note", "high", "pass"),
        ("none", "high", "pass"),
        ("error", "low", "pass"),
        ("error", "false-positive", "pass"),
    ],
)
def test_zaps_sarif_has_the_risk_as_level_and_the_confidence_in_the_rule(
    level: str, confidence: str, outcome: str
) -> None:
    rule = {"properties": {"confidence": confidence}}
    rules = DastGate(target=HERE, confidence=Confidence.MEDIUM)
    assert verdict_of(rules, sarif("ZAP", result(level), rule=rule)).outcome == outcome


@pytest.mark.parametrize(("score", "outcome"), [("8", "fail"), ("5", "fail"), ("2", "pass")])
def test_nucleis_sarif_has_the_severity_in_the_rule_and_the_target_in_the_text(
    score: str, outcome: str
) -> None:
    message = {"text": "Git Config (git-config) found on https://staging.example"}
    found = result("note", "/.git/config", kind="open", message=message)
    rule = {"properties": {"tags": ["security"], "security-severity": score}}
    assert verdict_of(DastGate(target=HERE), sarif("Nuclei", found, rule=rule)).outcome == outcome
    other = DastGate(target="https://production.example")
    assert verdict_of(other, sarif("Nuclei", found, rule=rule)).outcome != "pass"


def test_reports_that_are_not_about_a_service_prove_nothing() -> None:
    for document in (SARIF, ESLINT, sarif("ZAP")):
        verdict = verdict_of(DastGate(max=99), evidence(parsed(document)))
        assert verdict.outcome is Outcome.INCOMPLETE
        assert "does not say what was scanned" in verdict.reason
    for document in (BANDIT, GITLEAKS, {"@version": "1", "tests": []}):
        with pytest.raises(ReportError):
            parsed(document)


def test_a_report_of_a_service_is_none_of_the_source() -> None:
    verdict = verdict_of(FindingsGate(), zap())
    assert verdict.outcome is Outcome.ERROR and "another kind (zap)" in verdict.reason


def test_a_report_that_is_old_or_older_than_the_deployment_proves_nothing() -> None:
    assert verdict_of(DastGate(max_age=Duration.parse("1h")), zap()).outcome is Outcome.PASS
    old = verdict_of(DastGate(max_age=Duration.parse("20m")), zap())
    assert old.outcome is Outcome.INCOMPLETE and "more than max-age" in old.reason
    deployed = replace(CONTEXT, built_at=CONTEXT.now)
    assert "older than what is judged" in verdict_of(RULES, zap(), context=deployed).reason


def test_findings_are_waived_by_rule_and_address_with_an_end() -> None:
    document = zap(alert())
    for facts, outcome in (
        ({"id": "40012-*"}, "waived"),
        ({"id": "40012-1", "path": "https://staging.example/**"}, "waived"),
        ({"path": "https://staging.example/other"}, "fail"),
        ({"id": "40012-1", "until": "2025-12-31"}, "fail"),
    ):
        assert verdict_of(RULES, document, waivers=[waiver(**facts)]).outcome == outcome


def test_only_new_findings_count_where_asked() -> None:
    first = verdict_of(RULES, zap(alert()))
    context = replace(CONTEXT, baseline=baseline_after(first))
    rules = DastGate(new_only=True)
    assert verdict_of(rules, zap(alert()), context=context).outcome is Outcome.PASS
    both = zap(alert(), alert(alertRef="90019"))
    assert verdict_of(rules, both, context=context).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    "change",
    [
        {"site": None},
        {"@version": None},
        {"site": [{}]},
        {"site": [{"@name": "https://a"}]},
        {"site": [{"@name": "https://a", "alerts": [{}]}]},
        {"site": [{"@name": "https://a", "alerts": [alert(riskcode="9")]}]},
        {"site": [{"@name": "https://a", "alerts": [alert(riskcode="High")]}]},
    ],
)
def test_what_lacks_a_part_of_zaps_report_is_none(change: dict[str, Any]) -> None:
    document = {key: value for key, value in {**ZAP, **change}.items() if value is not None}
    with pytest.raises(ReportError):
        parsed(document, "zap")


@pytest.mark.parametrize(
    "event",
    [{"template-id": "a"}, {"info": {}}, nuclei(info={}), nuclei(**{"template-id": ""}), 1, []],
)
def test_what_lacks_a_part_of_nucleis_result_is_none(event: Any) -> None:
    with pytest.raises(ReportError):
        parsed(json_lines(event), "nuclei")


def test_zaps_xml_is_told_with_the_way_to_what_is_read() -> None:
    with pytest.raises(ReportError) as refused:
        parsed(b'<?xml version="1.0"?><OWASPZAPReport version="2.17.0"></OWASPZAPReport>')
    assert "traditional-json" in refused.value.hint


def test_a_target_must_be_an_address() -> None:
    with pytest.raises(ConfigError, match="target"):
        DastGate(target="https://")
