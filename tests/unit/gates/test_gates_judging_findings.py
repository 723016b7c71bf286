"""Findings and vulnerabilities: which count, which are new, which are waived."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gate_samples import GRYPE, NPM, OPENVEX, PIP_AUDIT, SARIF, TRIVY
from hypothesis import given
from hypothesis import strategies as st
from judging import CONTEXT, baseline_after, changed, checks, evidence, verdict_of, waiver

from shipline.errors import ConfigError
from shipline.gates import (
    FindingsGate,
    GateContext,
    Outcome,
    SecretsGate,
    Severity,
    VulnerabilitiesGate,
    Waiver,
    Waivers,
    judge,
)
from shipline.units import Duration
from shipline.values import replace

LODASH = {**GRYPE["matches"][0]}
RULES = VulnerabilitiesGate(max_database_age=Duration.parse("30d"))


def sarif(*results: dict[str, Any]) -> dict[str, Any]:
    run = {"tool": {"driver": {"name": "lint"}}, "results": [*results]}
    return {"version": "2.1.0", "runs": [run]}


def result(rule: str, line: int = 1, level: str = "error", path: str = "a.py") -> dict[str, Any]:
    place = {"artifactLocation": {"uri": path}, "region": {"startLine": line}}
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": f"about {rule}"},
        "locations": [{"physicalLocation": place}],
    }


def grype(**vulnerability: Any) -> dict[str, Any]:
    changed_one = {**LODASH["vulnerability"], "knownExploited": [], "epss": [], **vulnerability}
    return {**GRYPE, "matches": [{**LODASH, "vulnerability": changed_one}]}


@pytest.mark.parametrize(
    ("level", "outcome"),
    [("error", "pass"), ("warning", "fail"), ("note", "fail"), ("none", "fail")],
)
def test_findings_count_from_their_level_on(level: Any, outcome: str) -> None:
    report = sarif(result("R", level="warning"))
    assert verdict_of(FindingsGate(level=level), report).outcome == outcome


def test_a_secret_of_any_level_counts() -> None:
    assert verdict_of(SecretsGate(), sarif(result("R", level="none"))).outcome is Outcome.FAIL


def test_a_linter_that_found_nothing_is_no_proof_of_no_secrets() -> None:
    report = sarif()
    for name, outcome in (("ESLint", Outcome.ERROR), ("gitleaks", Outcome.PASS)):
        report["runs"][0]["tool"]["driver"]["name"] = name
        assert verdict_of(SecretsGate(), report).outcome is outcome
        assert verdict_of(FindingsGate(), report).outcome is Outcome.PASS


def test_security_severity_counts_at_any_level() -> None:
    report = json.loads(json.dumps(SARIF))
    report["runs"][0]["results"] = [{"ruleId": "R1", "level": "note", "message": {}}]
    assert verdict_of(FindingsGate(), report).outcome is Outcome.PASS
    rules = FindingsGate(severity=Severity.HIGH)
    assert verdict_of(rules, report).outcome is Outcome.FAIL


def test_only_new_findings_count_though_lines_move() -> None:
    rules = FindingsGate(new_only=True)
    first = verdict_of(rules, sarif(result("OLD")))
    assert first.outcome is Outcome.FAIL  # there is nothing to be older than
    context = replace(CONTEXT, baseline=baseline_after(first))
    moved = sarif(result("OLD", line=40))
    assert verdict_of(rules, moved, context=context).outcome is Outcome.PASS
    more = sarif(result("OLD"), result("NEW"))
    assert verdict_of(rules, more, context=context).reason.startswith("1 new finding")


def test_findings_on_changed_lines_count_alone_and_those_without_a_place_too() -> None:
    rules = FindingsGate(changed_lines_only=True)
    report = sarif(result("A", 5), result("B", 6))
    assert verdict_of(rules, report).outcome is Outcome.INCOMPLETE
    context = replace(CONTEXT, changes=changed(6, path="a.py"))
    assert verdict_of(rules, report, context=context).reason.startswith("1 finding")
    nowhere = sarif({"ruleId": "C", "message": {}, "level": "error"})
    assert verdict_of(rules, nowhere, context=context).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("rules", "outcome"),
    [
        ({}, "fail"),
        ({"max": 1}, "pass"),
        ({"fail_on": Severity.HIGH}, "fail"),
        ({"fail_on": Severity.CRITICAL}, "pass"),
        ({"fix": "available"}, "fail"),
        ({"ignore_statuses": ("fixed",)}, "pass"),
        ({"max_by_severity": {"high": 1}}, "pass"),
        ({"max_by_severity": {"high": 0}}, "fail"),
        ({"max_by_severity": {"critical": 0}}, "pass"),
        ({"grace": Duration.parse("30d")}, "fail"),  # the fix is from 1 November
        ({"grace": Duration.parse("90d")}, "pass"),
    ],
)
def test_vulnerabilities_count_by_the_rules(rules: dict[str, Any], outcome: str) -> None:
    assert verdict_of(VulnerabilitiesGate(**rules), grype()).outcome == outcome


@pytest.mark.parametrize("raised", [{"knownExploited": [{"cve": "x"}]}, {"epss": [{"epss": 0.9}]}])
def test_exploitation_outweighs_what_would_leave_it_out(raised: dict[str, Any]) -> None:
    rules = VulnerabilitiesGate(
        fail_on=Severity.CRITICAL, grace=Duration.parse("900d"), epss=0.5, fix="available"
    )
    assert verdict_of(rules, grype()).outcome is Outcome.PASS
    assert verdict_of(rules, grype(**raised)).outcome is Outcome.FAIL


def test_an_unknown_severity_is_high_enough() -> None:
    rules = VulnerabilitiesGate(fail_on=Severity.CRITICAL)
    assert verdict_of(rules, grype(severity="Unknown")).outcome is Outcome.FAIL
    by_severity = VulnerabilitiesGate(max_by_severity={"critical": 0})
    assert verdict_of(by_severity, grype(severity="odd")).outcome is Outcome.FAIL


def test_one_without_a_fix_counts_unless_only_fixes_are_asked_for() -> None:
    report = grype(fix={"versions": [], "state": "wont-fix"})
    assert verdict_of(RULES, report).outcome is Outcome.FAIL
    assert verdict_of(VulnerabilitiesGate(fix="available"), report).outcome is Outcome.PASS


def test_skipped_packages_empty_scans_and_old_databases_are_doubt() -> None:
    audited = {"dependencies": [{**PIP_AUDIT["dependencies"][1]}]}
    assert verdict_of(VulnerabilitiesGate(), audited).outcome is Outcome.INCOMPLETE
    empty = {**TRIVY, "Results": None}
    assert verdict_of(VulnerabilitiesGate(), empty).outcome is Outcome.INCOMPLETE
    assert verdict_of(VulnerabilitiesGate(allow_empty=True), empty).outcome is Outcome.PASS
    old = json.loads(json.dumps(GRYPE))
    old["matches"] = []
    assert verdict_of(VulnerabilitiesGate(), old).outcome is Outcome.PASS
    old["descriptor"]["db"]["status"]["built"] = "2025-12-20T00:00:00Z"
    assert verdict_of(VulnerabilitiesGate(), old).outcome is Outcome.INCOMPLETE
    clean = {**NPM, "vulnerabilities": {}}
    assert verdict_of(VulnerabilitiesGate(), clean).outcome is Outcome.PASS
    assert verdict_of(RULES, clean).outcome is Outcome.INCOMPLETE  # an age that nobody knows


def test_only_new_vulnerabilities_count() -> None:
    rules = VulnerabilitiesGate(new_only=True)
    first = verdict_of(rules, grype())
    context = replace(CONTEXT, baseline=baseline_after(first))
    assert first.outcome is Outcome.FAIL
    assert verdict_of(rules, grype(), context=context).outcome is Outcome.PASS
    assert verdict_of(rules, grype(id="GHSA-new"), context=context).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    "of",
    [
        {"id": "GHSA-aaaa"},
        {"id": "CVE-2021-1"},
        {"id": "GHSA-*", "package": "lod*"},
        {"purl": "pkg:npm/lodash@*"},
        {"path": "/app/*.json"},
        {"id": "GHSA-aaaa", "gate": "gate"},
        {"gate": "g*"},
    ],
)
def test_a_waiver_that_fits_waives(of: dict[str, str]) -> None:
    verdict = verdict_of(VulnerabilitiesGate(), GRYPE, waivers=[waiver(**of)])
    assert verdict.outcome is Outcome.WAIVED and not verdict.blocks


@pytest.mark.parametrize(
    "of",
    [
        {"id": "GHSA-bbbb"},
        {"id": "GHSA-aaaa", "package": "other"},
        {"purl": "pkg:npm/other@*"},
        {"id": "GHSA-aaaa", "gate": "other"},
        {"id": "GHSA-aaaa", "image": "registry.example/other"},
        {"id": "GHSA-aaaa", "environment": "staging"},
    ],
)
def test_a_waiver_for_something_else_does_not(of: dict[str, str]) -> None:
    context = replace(CONTEXT, repository="registry.example/app", environment="production")
    found = waiver(**of)
    verdict = verdict_of(VulnerabilitiesGate(), GRYPE, context=context, waivers=[found])
    assert verdict.outcome is Outcome.FAIL


def test_an_expired_waiver_fails_even_below_the_limit() -> None:
    rules = VulnerabilitiesGate(max=5)
    last = verdict_of(rules, GRYPE, waivers=[waiver(id="GHSA-aaaa", until="2026-01-01")])
    assert last.outcome is Outcome.PASS
    over = verdict_of(rules, GRYPE, waivers=[waiver(id="GHSA-aaaa", until="2025-12-31")])
    assert over.outcome is Outcome.FAIL and "expired on 2025-12-31" in over.reason


def test_a_waiver_that_nobody_needs_is_told() -> None:
    waivers = Waivers([waiver(id="GHSA-aaaa"), waiver(id="CVE-0")], CONTEXT)
    rules = VulnerabilitiesGate()
    verdict = judge("gate", "vulnerabilities", rules, [evidence(GRYPE)], waivers)
    (warning,) = waivers.unused([verdict])
    assert "CVE-0" in warning
    blind = judge("other", "vulnerabilities", rules, [], waivers)
    assert waivers.unused([verdict, blind]) == ()  # it may have been needed there
    assert waivers.unused([replace(verdict, kind="coverage")]) == ()


@pytest.mark.parametrize("missing", ["owner", "reason"])
def test_a_waiver_without_owner_or_reason_is_none(missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        waiver(id="x", **{missing: " "})
    with pytest.raises(ConfigError, match="a waiver needs id"):
        waiver()


@pytest.mark.parametrize(
    ("statement", "outcome"),
    [
        ({}, "waived"),
        ({"status": "fixed"}, "waived"),
        ({"status": "affected"}, "fail"),
        ({"status": "under_investigation"}, "fail"),
        ({"products": [{"@id": "pkg:npm/lodash@4.17.15"}]}, "waived"),
        ({"products": [{"@id": "pkg:npm/lodash@4.17.16"}]}, "fail"),
        ({"products": [{"@id": "pkg:npm/lodash-es"}]}, "fail"),
        ({"products": []}, "fail"),
        ({"vulnerability": {"name": "CVE-2021-2"}}, "fail"),
    ],
)
def test_vex_takes_away_what_it_is_about(statement: dict[str, Any], outcome: str) -> None:
    said = {**OPENVEX, "statements": [{**OPENVEX["statements"][0], **statement}]}
    assert verdict_of(VulnerabilitiesGate(), GRYPE, vex=[said]).outcome == outcome


@pytest.mark.parametrize(
    ("product", "purl", "same"),
    [
        ("pkg:npm/%40acme/a", "pkg:npm/@acme/a@1", True),
        ("pkg:npm/@acme/a@1", "pkg:npm/%40acme/a@1", True),
        ("pkg:npm/%40acme/a@1", "pkg:npm/%40acme/a@2", False),
        ("pkg:npm/a", "pkg:npm/%40acme/a@1", False),
        ("pkg:deb/debian/curl@1%3A7.88", "pkg:deb/debian/curl@1:7.88?arch=amd64", True),
        ("pkg:deb/debian/curl?arch=arm64", "pkg:deb/debian/curl@1?arch=amd64", True),
        ("pkg:deb/ubuntu/curl", "pkg:deb/debian/curl@1", False),
        ("pkg:PyPI/Ruamel_Yaml", "pkg:pypi/ruamel-yaml@1", True),
        ("pkg:golang/example.com/a#b", "pkg:golang/example.com/a@v1", True),
        ("pkg:npm/a@1", "pkg:npm/a", False),
        ("npm/a", "npm/a", False),
        ("pkg:npm", "pkg:npm", False),
        ("", "", False),
    ],
)
def test_vex_names_packages_in_any_spelling_of_a_package_url(
    product: str, purl: str, same: bool
) -> None:
    (match,) = GRYPE["matches"]
    report = {**GRYPE, "matches": [{**match, "artifact": {**match["artifact"], "purl": purl}}]}
    statement = {**OPENVEX["statements"][0], "products": [{"@id": product}]}
    said = {**OPENVEX, "statements": [statement]}
    judged = verdict_of(VulnerabilitiesGate(), report, vex=[said])
    assert judged.outcome == ("waived" if same else "fail")


def test_the_latest_vex_statement_decides() -> None:
    first = OPENVEX["statements"][0]
    later = {**first, "status": "affected", "timestamp": "2026-01-01T11:00:00Z"}
    for order in ([first, later], [later, first]):
        said = {**OPENVEX, "statements": order}
        assert verdict_of(VulnerabilitiesGate(), GRYPE, vex=[said]).outcome is Outcome.FAIL


SOME = st.lists(st.sampled_from(["A", "B", "C", "D"]), max_size=6)


@given(SOME, SOME, st.integers(0, 4), st.lists(st.sampled_from("ABCD"), max_size=2), st.booleans())
def test_more_findings_never_mend_a_failure(
    first: list[str], more: list[str], limit: int, waived: list[str], known: bool
) -> None:
    rules = FindingsGate(max=limit, new_only=known)
    waivers: list[Waiver] = [waiver(id=one) for one in dict.fromkeys(waived)]
    context: GateContext = CONTEXT
    if known:
        context = replace(CONTEXT, baseline=baseline_after(verdict_of(rules, sarif(result("A")))))
    few = verdict_of(rules, sarif(*map(result, first)), context=context, waivers=waivers)
    many = verdict_of(rules, sarif(*map(result, [*first, *more])), context=context, waivers=waivers)
    assert not (few.blocks and not many.blocks)


@given(SOME, SOME, st.integers(0, 4), st.sampled_from(Severity))
def test_more_vulnerabilities_never_mend_a_failure(
    first: list[str], more: list[str], limit: int, fail_on: Severity
) -> None:
    def report(names: list[str]) -> dict[str, Any]:
        levels = {"A": "Low", "B": "High", "C": "odd", "D": "Critical"}
        matches = [
            {"vulnerability": {"id": name, "severity": levels[name]}, "artifact": {"name": "p"}}
            for name in names
        ]
        return {**GRYPE, "matches": matches}

    rules = VulnerabilitiesGate(max=limit, fail_on=fail_on)
    few, many = (verdict_of(rules, report(names)) for names in (first, [*first, *more]))
    assert not (few.blocks and not many.blocks)


def test_checks_of_each_severity_are_told_apart() -> None:
    rules = VulnerabilitiesGate(max_by_severity={"critical": 0, "high": 2})
    assert checks(verdict_of(rules, GRYPE)) == {"critical": "pass", "high": "pass"}
