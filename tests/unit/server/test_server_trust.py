"""Admission of pulls: signatures and scan results, proven by keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from attached import Repository, add_image, add_index
from node_app import NodeApp, NodeRepository
from shipline.content import copy_graph
from shipline.globs import Glob
from shipline.oci import Descriptor, Index, Reference
from shipline.server.admission.section import (
    AcceptedVulnerability,
    AdmissionSection,
    VulnerabilityRule,
)
from shipline.server.admission.vulnerabilities import COSIGN_VULN, IN_TOTO_VULNS
from shipline.supply import Form, ImagePattern, PrivateKey, Statement, attest, generate_key, sign
from shipline.trust import TrustRule, TrustSection
from shipline.units import Day, Duration

KEY, SECOND, OTHER = generate_key("release"), generate_key("security"), generate_key("stranger")
NAME = Reference("registry.example", "team/app", "v1")
NOW = 1_800_000_000.0
Open = Callable[[AdmissionSection], NodeApp]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Open]:
    for key in (KEY, SECOND):
        (tmp_path / f"{key.public.name}.pub").write_bytes(key.public.pem)
    opened: list[NodeApp] = []

    def open_node(policy: AdmissionSection) -> NodeApp:
        opened.append(NodeApp(tmp_path, policy))
        return opened[-1]

    yield open_node
    for one in opened:
        one.close()


def trusting(**rule: Any) -> AdmissionSection:
    keys = {"release": "release.pub", "security": "security.pub"}
    required = TrustRule(images=(ImagePattern.parse("team/*"),), **rule)
    return AdmissionSection(signatures=TrustSection((required,), keys, default="accept"))


def published(app: NodeApp) -> tuple[NodeRepository, Index]:
    """An index of two images under team/app:v1."""
    source, goal = Repository(), app.repository("team/app")
    index = add_index(source)
    copy_graph(source, goal, index.descriptor)
    goal.tag(index.descriptor, source, "v1")
    return goal, index


def test_an_unsigned_image_is_refused_by_tag_and_by_digest(node: Open) -> None:
    app = node(trusting())
    _, index = published(app)
    child = index.manifests[0]
    for reference in ("v1", index.descriptor.digest, child.digest):
        refused = app.pull("team/app", reference)
        assert refused.status == 403
        assert "team/*" in refused.message and "shipline sign" in refused.message
        assert app.call("HEAD", f"/v2/team/app/manifests/{reference}").status == 403


def test_a_signed_index_lets_its_images_out(node: Open) -> None:
    app = node(trusting())
    store, index = published(app)
    sign(store, index.descriptor, NAME, [KEY], recursive=False)
    for reference in ("v1", index.descriptor.digest, *(one.digest for one in index.manifests)):
        assert app.pull("team/app", reference).status == 200


def test_a_signature_by_an_untrusted_key_counts_for_nothing(node: Open) -> None:
    app = node(trusting())
    store, index = published(app)
    sign(store, index.descriptor, NAME, [OTHER])
    assert app.pull("team/app", "v1").status == 403


def test_two_of_two_keys_must_have_signed(node: Open) -> None:
    app = node(trusting(threshold=2))
    store, index = published(app)
    sign(store, index.descriptor, NAME, [KEY, OTHER])
    assert app.pull("team/app", "v1").status == 403
    sign(store, index.descriptor, NAME, [SECOND])
    assert app.pull("team/app", "v1").status == 200


def test_a_signature_for_another_repository_is_none_here(node: Open) -> None:
    app = node(trusting())
    store, index = published(app)
    sign(store, index.descriptor, Reference("registry.example", "team/other", "v1"), [KEY])
    assert app.pull("team/app", "v1").status == 403


def test_the_signatures_themselves_can_be_read(node: Open) -> None:
    app = node(trusting())
    store, index = published(app)
    sign(store, index.descriptor, NAME, [OTHER])
    assert app.pull("team/app", f"sha256-{index.descriptor.digest.hex}.sig").status == 200
    found = store.referrers(index.descriptor)
    assert found and all(app.pull("team/app", one.digest).status == 200 for one in found)


@pytest.mark.parametrize("form", [Form.TAG, Form.BUNDLE])
def test_a_signature_that_is_deleted_ceases_to_count(node: Open, form: Form) -> None:
    app = node(trusting())
    store, index = published(app)
    sign(store, index.descriptor, NAME, [KEY], forms=(form,), recursive=False)
    assert app.pull("team/app", "v1").status == 200
    place = f"sha256-{index.descriptor.digest.hex}.sig"
    if form is not Form.TAG:
        (referrer,) = store.referrers(index.descriptor)
        place = str(referrer.digest)
    assert app.call("DELETE", f"/v2/team/app/manifests/{place}").status == 202
    assert app.pull("team/app", "v1").status == 403


def test_other_repositories_are_not_asked(node: Open) -> None:
    app = node(trusting())
    source, goal = Repository(), app.repository("free/app")
    target = add_image(source)
    copy_graph(source, goal, target)
    assert app.pull("free/app", target.digest).status == 200


def scanning(**rule: Any) -> AdmissionSection:
    return AdmissionSection(vulnerabilities=(VulnerabilityRule(("release.pub",), **rule),))


def trivy(*found: tuple[str, str, str]) -> dict[str, Any]:
    """A Trivy report of (id, severity, fixed version)."""
    rows = [
        {
            "VulnerabilityID": name,
            "PkgName": "openssl",
            "InstalledVersion": "3.0.1",
            "FixedVersion": fixed,
            "Severity": severity,
        }
        for name, severity, fixed in found
    ]
    result = {"Target": "app", "Class": "os-pkgs", "Type": "debian", "Vulnerabilities": rows}
    return {"SchemaVersion": 2, "ArtifactName": "app", "Results": [result]}


def scanned(
    store: NodeRepository,
    target: Descriptor,
    report: Any,
    *,
    key: PrivateKey = KEY,
    at: float = NOW,
    kind: str = COSIGN_VULN,
) -> None:
    finished = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    predicate = {
        "scanner": {"uri": "pkg:scanner", "version": "1", "result": report},
        "metadata": {"scanStartedOn": finished, "scanFinishedOn": finished},
    }
    statement = Statement.about(target, "team/app", kind, predicate)
    attest(store, target, statement, [key], clock=lambda: at)


CRITICAL, LOW = ("CVE-2026-1", "CRITICAL", "3.0.2"), ("CVE-2026-2", "LOW", "")


def test_an_image_goes_out_only_with_a_clean_signed_scan(node: Open) -> None:
    app = node(scanning())
    store, index = published(app)
    target = index.descriptor
    assert "no scan result" in app.pull("team/app", "v1").message
    scanned(store, target, trivy(LOW), key=OTHER)
    assert "none is signed by a trusted key" in app.pull("team/app", "v1").message
    scanned(store, target, trivy(CRITICAL, LOW), at=NOW - 60)
    refused = app.pull("team/app", "v1")
    assert refused.status == 403
    assert "CVE-2026-1 (critical)" in refused.message and "CVE-2026-2" not in refused.message
    scanned(store, target, trivy(LOW), at=NOW)
    assert app.pull("team/app", "v1").status == 200, "the newest scan decides"
    for one in index.manifests[:2]:
        assert app.pull("team/app", one.digest).status == 200, "the scan of the index is theirs"


def test_scans_of_all_images_speak_for_their_index(node: Open) -> None:
    app = node(scanning())
    store, index = published(app)
    amd, arm = index.manifests[:2]
    scanned(store, amd, trivy(LOW))
    assert app.pull("team/app", amd.digest).status == 200
    assert "linux/arm64: no scan" in app.pull("team/app", "v1").message
    scanned(store, arm, trivy(CRITICAL))
    assert "linux/arm64: 1 vuln" in app.pull("team/app", "v1").message
    scanned(store, arm, trivy(LOW), at=NOW + 1)
    assert app.pull("team/app", "v1").status == 200


def test_a_clean_scan_of_the_index_takes_nothing_back_about_its_image(node: Open) -> None:
    app = node(scanning(max_age=Duration.parse("7d")))
    store, index = published(app)
    amd, arm = index.manifests[:2]
    scanned(store, amd, trivy(CRITICAL), at=NOW - 30 * 86400)
    scanned(store, index.descriptor, trivy(LOW), at=NOW)
    assert "CVE-2026-1" in app.pull("team/app", amd.digest).message
    assert app.pull("team/app", arm.digest).status == 200
    scanned(store, amd, trivy(LOW), at=NOW - 29 * 86400)
    assert app.pull("team/app", amd.digest).status == 200, "the index was scanned this week"
    scanned(store, index.descriptor, trivy(CRITICAL), at=NOW + 1)
    assert app.pull("team/app", amd.digest).status == 403


@pytest.mark.parametrize(
    ("rule", "found", "allowed"),
    [
        ({"refuse": "low"}, LOW, False),
        ({"refuse": "low", "fixable_only": True}, LOW, True),
        ({"fixable_only": True}, CRITICAL, False),
        ({}, ("CVE-1", "UNKNOWN", "2"), False),
        (
            {
                "allow": (
                    AcceptedVulnerability("CVE-2026-1", Day(date(2027, 12, 31)), "no path to it"),
                )
            },
            CRITICAL,
            True,
        ),
        (
            {"allow": (AcceptedVulnerability("CVE-2026-1", Day(date(2026, 12, 31)), "expired"),)},
            CRITICAL,
            False,
        ),
        ({"repositories": (Glob("prod/**"),)}, CRITICAL, True),
    ],
)
def test_the_rule_says_what_is_bad(
    node: Open, rule: dict[str, Any], found: tuple[str, str, str], allowed: bool
) -> None:
    app = node(scanning(**rule))
    store, index = published(app)
    scanned(store, index.descriptor, trivy(found))
    assert app.pull("team/app", "v1").status == (200 if allowed else 403)


def test_a_scan_grows_old(node: Open) -> None:
    app = node(scanning(max_age=Duration.parse("7d")))
    store, index = published(app)
    scanned(store, index.descriptor, trivy(), at=app.now - 6 * 86400)
    assert app.pull("team/app", "v1").status == 200
    app.now += 2 * 86400
    assert "older than 1w" in app.pull("team/app", "v1").message


@pytest.mark.parametrize(
    "report", [None, [], "clean", {}, {"SchemaVersion": 2}, {"version": "2.1.0", "runs": []}]
)
def test_what_is_no_report_is_not_a_clean_one(node: Open, report: Any) -> None:
    app = node(scanning())
    store, index = published(app)
    scanned(store, index.descriptor, report)
    assert app.pull("team/app", "v1").status == 403


def test_in_toto_lists_of_vulnerabilities_are_read(node: Open) -> None:
    app = node(scanning(refuse="high"))
    store, index = published(app)
    low = {"id": "CVE-1", "severity": [{"method": "CVSS_V3", "score": "3.1"}]}
    high = {"id": "CVE-2", "severity": [{"method": "nvd", "score": "9.8"}]}
    scanned(store, index.descriptor, [low], kind=IN_TOTO_VULNS[0])
    assert app.pull("team/app", "v1").status == 200
    scanned(store, index.descriptor, [low, high], kind=IN_TOTO_VULNS[0], at=NOW + 1)
    assert "CVE-2 (critical)" in app.pull("team/app", "v1").message
