"""Reports of steps: the commands of scanners, the gates that read reports, and their findings.

A scanner inspects the manifest of one platform by digest. Its step does not fail because of
findings: a gate judges the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shipline.errors import ConfigError
from shipline.net import is_loopback
from shipline.ship.record import DONE, RunRecord
from shipline.ship.section import Pipeline, StepSection, as_tuple

if TYPE_CHECKING:
    from shipline.gates import GatesSection


@dataclass(frozen=True, slots=True)
class ScannerCommand:
    """A command `line` with {image} and {report}; `plain` are the variables for a registry without
    TLS.
    """

    line: str
    suffix: str
    gate: str
    variables: Mapping[str, str]
    plain: Mapping[str, str]

    def command(self, image: str, report: str) -> tuple[str, ...]:
        """The program and its arguments; `image` is a repository with the digest of a platform."""
        return tuple(word.format(image=image, report=report) for word in self.line.split())

    def environ(self, host: str) -> dict[str, str]:
        """The variables to set for a registry at `host`: without TLS where it is this machine."""
        name, colon, port = host.rpartition(":")
        local = is_loopback(name if colon and port.isdigit() else host)
        return {**self.variables, **(self.plain if local else {})}

    def __str__(self) -> str:
        return " ".join(self.command("IMAGE@DIGEST", f"REPORT.{self.suffix}"))


SCANNERS: Mapping[str, ScannerCommand] = {
    "trivy": ScannerCommand(
        "trivy image --image-src remote --format json --exit-code 0 --output {report} {image}",
        "trivy.json",
        "vulnerabilities",
        {"TRIVY_DISABLE_TELEMETRY": "true", "TRIVY_SKIP_VERSION_CHECK": "true"},
        {"TRIVY_INSECURE": "true", "TRIVY_NON_SSL": "true"},
    ),
    "grype": ScannerCommand(
        "grype registry:{image} --output json --file {report}",
        "grype.json",
        "vulnerabilities",
        {"GRYPE_CHECK_FOR_APP_UPDATE": "false"},
        {"GRYPE_REGISTRY_INSECURE_USE_HTTP": "true"},
    ),
    "syft": ScannerCommand(
        "syft scan registry:{image} --output cyclonedx-json={report}",
        "cdx.json",
        "sbom",
        {"SYFT_CHECK_FOR_APP_UPDATE": "false"},
        {"SYFT_REGISTRY_INSECURE_USE_HTTP": "true"},
    ),
}
_SBOM = "sbom"  # the gate that reads what the build lists
_FINDINGS = ("analysis", "secrets", "dast", "vulnerabilities")
"""Kinds of gates whose tools fail if they find something."""


def with_implied_gates(section: GatesSection | None, pipeline: Pipeline) -> GatesSection | None:
    """The gates of the section, and a default gate for each other kind that steps write reports
    for; None if there are none. Raises ConfigError for reports for an unknown gate.
    """
    fed = [*_places(pipeline)]
    if not fed:
        return section
    from shipline.gates import REPORT_GATES, GatesSection

    section = section or GatesSection()
    names = {name for name, _, _ in section.gates()}
    implied = [kind for kind in REPORT_GATES if getattr(section, kind) is None]
    for place, gate in fed:
        if gate not in names and gate not in implied:
            known = ", ".join(sorted({*names, *implied}))
            raise ConfigError(f"{place}: {gate!r} is not a gate", hint=f"there is {known}")
    return section.with_defaults(gate for _, gate in fed if gate in implied)


def _places(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """The places in shipline.yaml that name reports, with the gates they are for."""
    for name, step in pipeline.commands.items():
        if step.scanner is None:
            yield from ((f"steps.{name}.reports", gate) for gate in gates_of(step))
        elif (gate := SCANNERS[step.scanner].gate) != "sbom":  # a list of packages has no findings
            yield f"steps.{name}.scanner", gate


def gates_of(step: StepSection) -> Iterable[str]:
    """The gates that read the reports of a step."""
    if step.scanner is not None:
        return (SCANNERS[step.scanner].gate,)
    return step.reports if isinstance(step.reports, Mapping) else ()


def left_to_gates(section: GatesSection | None, step: StepSection) -> bool:
    """Whether all reports of a step are findings that gates judge: then its tool may fail because
    of them.
    """
    if section is None or not isinstance(step.reports, Mapping):
        return False
    kinds = {name: kind for name, kind, rules in section.gates() if not rules.skip}
    return bool(step.reports) and all(kinds.get(gate) in _FINDINGS for gate in step.reports)


def reports_by_gate(
    section: GatesSection, pipeline: Pipeline, run: RunRecord, target: str
) -> dict[str, list[str]]:
    """The reports of each gate on the image of a target: its own, then those of steps."""
    own = {name: getattr(rules, "paths", ()) for name, _, rules in section.gates()}
    reports: dict[str, list[str]] = {}
    built = run.step("build")
    if _SBOM in own and built is not None and built.reports:
        reports[_SBOM] = [*own[_SBOM], *_about(target, built.reports)]
    for name, step in pipeline.commands.items():
        for gate, path in _reports(step, run, name, target):
            if gate in own and path not in reports.setdefault(gate, [*own[gate]]):
                reports[gate].append(path)
    return reports


def _about(target: str, paths: Iterable[str]) -> Iterator[str]:
    """The reports about the image of a target, among those that a step wrote for all images."""
    return (path for path in paths if not target or Path(path).parent.name == target)


def _reports(
    step: StepSection, run: RunRecord, name: str, target: str
) -> Iterator[tuple[str, str]]:
    record = run.step(name)
    if step.scanner is not None and record is not None and record.state in DONE:
        yield from ((SCANNERS[step.scanner].gate, path) for path in _about(target, record.reports))
    elif isinstance(step.reports, Mapping):
        for gate, paths in step.reports.items():
            yield from ((gate, path) for path in as_tuple(paths))


def findings_in(paths: Iterable[Path]) -> tuple[str, ...]:
    """The findings, vulnerabilities and failed tests in reports, one line each; other files are
    ignored.
    """
    from shipline.gates.report_files import read_report
    from shipline.gates.reports import Findings, TestResults, Vulnerabilities, WebFindings

    findings: list[str] = []
    for path in paths:
        report = read_report(path, str(path)).report
        match report.content if report else None:
            case Findings(items) | WebFindings(items):
                findings += [str(item) for item in items if not item.suppressed]
            case Vulnerabilities(vulnerable):
                findings += map(str, vulnerable)
            case TestResults() as results:
                findings += results.failed_names
    return tuple(findings)
