"""The section `gates` of shipline.yaml: the gates and their limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shipline.errors import ConfigError
from shipline.gates.reports import REPORT_FORMATS, Confidence, Severity, target_of
from shipline.gates.waivers import Waiver
from shipline.globs import Glob
from shipline.units import ByteSize, Duration
from shipline.values import doc, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """Options of every gate."""

    name: str = field(default="", metadata=doc("Its name in messages; by default its key."))
    early: bool = field(default=False, metadata=doc("Run it in git hooks, before the commit."))
    skip: str = field(default="", metadata=doc("Skip the gate, for this reason."))
    on_incomplete: Literal["fail", "warn", ""] = field(
        default="", metadata=doc("What to do if it cannot tell: fail (default) or warn.")
    )
    blocks_in: tuple[Glob, ...] = field(
        default=(), metadata=doc("Environments in which it blocks, as globs; in others it warns.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportGate(GateRules):
    """Options of every gate that reads reports."""

    reports: str | tuple[str, ...] = field(
        default=(), metadata=doc("Files, as PATH or FORMAT:PATH; globs are allowed.")
    )
    run: str | tuple[str, ...] = field(
        default=(), metadata=doc("Command that writes the reports; its exit status is ignored.")
    )
    timeout: Duration = field(
        default=Duration(1_800_000), metadata=doc("Maximum run time of `run`.")
    )
    max_age: Duration | None = field(default=None, metadata=doc("Maximum age of a report."))

    @property
    def paths(self) -> tuple[str, ...]:
        """The reports as FORMAT:PATH or PATH."""
        return (self.reports,) if isinstance(self.reports, str) else self.reports


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageGate(ReportGate):
    """How much of the code the tests cover, in percent."""

    min: float = field(default=80.0, metadata=doc("Minimum line coverage, in percent."))
    branch_min: float | None = field(
        default=None, metadata=doc("Minimum branch coverage, in percent.")
    )
    file_min: float | None = field(default=None, metadata=doc("Minimum coverage of each file."))
    patch_min: float | None = field(
        default=None, metadata=doc("Minimum coverage of changed lines.")
    )
    patch_floor: int = field(default=20, metadata=doc("Do not judge changes of fewer lines."))
    max_drop: float | None = field(
        default=None, metadata=doc("Maximum drop since the last promoted image, in points.")
    )
    deleted_code: Literal["tolerate", "count"] = field(
        default="tolerate", metadata=doc("Whether a drop counts that only comes from deleted code.")
    )
    exclude: tuple[Glob, ...] = field(default=(), metadata=doc("Files to exclude, as globs."))

    def __post_init__(self) -> None:
        for key in ("min", "branch_min", "file_min", "patch_min"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 100:
                raise ConfigError(f"{_key(key)}: {value} is not a percentage from 0 to 100")
        _require_not_negative(self, "patch_floor", "max_drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class TestsGate(ReportGate):
    """Test results."""

    __test__ = False  # or pytest collects it

    min_tests: int = field(default=1, metadata=doc("Minimum number of tests that ran."))
    max_failed: int = field(default=0, metadata=doc("Maximum number of failures and errors."))
    max_skipped: int | None = field(default=None, metadata=doc("Maximum number of skipped tests."))
    max_flaky: int | None = field(
        default=None, metadata=doc("Maximum number of tests that passed only on retry.")
    )
    max_duration: Duration | None = field(
        default=None, metadata=doc("Maximum total duration of the tests.")
    )
    max_lost: int | None = field(
        default=None, metadata=doc("How many tests fewer than for the last promoted image.")
    )

    def __post_init__(self) -> None:
        _require_not_negative(
            self, "min_tests", "max_failed", "max_skipped", "max_flaky", "max_lost"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingsGate(ReportGate):
    """Findings of static analysis or a secret scanner (SARIF)."""

    max: int = field(default=0, metadata=doc("Maximum number of findings."))
    level: Literal["error", "warning", "note", "none"] = field(
        default="warning", metadata=doc("The lowest SARIF level that counts.")
    )
    severity: Severity | None = field(
        default=None, metadata=doc("Also count findings of this security severity or higher.")
    )
    new_only: bool = field(
        default=False, metadata=doc("Count what the last promoted image did not have.")
    )
    changed_lines_only: bool = field(
        default=False, metadata=doc("Count only findings on changed lines.")
    )
    suppressed: Literal["ignore", "count"] = field(
        default="ignore", metadata=doc("Whether findings suppressed in the source count.")
    )

    def __post_init__(self) -> None:
        _require_not_negative(self, "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsGate(FindingsGate):
    """Secrets in the source: findings of any level count."""

    level: Literal["error", "warning", "note", "none"] = field(
        default="none", metadata=doc("The lowest SARIF level that counts.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DastGate(ReportGate):
    """Findings of a scanner in a running service. One without a severity or a confidence always
    counts.
    """

    max: int = field(default=0, metadata=doc("Maximum number of findings."))
    fail_on: Severity = field(
        default=Severity.MEDIUM, metadata=doc("The lowest severity that counts.")
    )
    confidence: Confidence = field(
        default=Confidence.LOW, metadata=doc("The lowest confidence that counts.")
    )
    target: str = field(
        default="", metadata=doc("The URL of the service that must have been scanned.")
    )
    new_only: bool = field(
        default=False, metadata=doc("Count what the last promoted image did not have.")
    )

    def __post_init__(self) -> None:
        _require_not_negative(self, "max")
        if self.target and not target_of(self.target):
            raise ConfigError(f"target: {self.target!r} is not a URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class VulnerabilitiesGate(ReportGate):
    """Known vulnerabilities of packages. One without a severity in the report counts at any
    `fail-on`.
    """

    max: int | None = field(
        default=None, metadata=doc("Maximum number; by default 0, or none with max-by-severity.")
    )
    fail_on: Severity = field(
        default=Severity.NEGLIGIBLE, metadata=doc("The lowest severity that counts.")
    )
    max_by_severity: Mapping[str, int] = field(
        default_factory=dict, metadata=doc("Maximum number by severity.")
    )
    fix: Literal["any", "available"] = field(
        default="any", metadata=doc("Count all, or only those with a fix.")
    )
    grace: Duration | None = field(
        default=None, metadata=doc("Do not count one whose fix is newer than this.")
    )
    exploited: Literal["count", "as-others"] = field(
        default="count", metadata=doc("Whether exploited ones (CISA KEV) always count.")
    )
    epss: float | None = field(
        default=None, metadata=doc("One with this EPSS score (0 to 1) or more always counts.")
    )
    ignore_statuses: tuple[str, ...] = field(
        default=(), metadata=doc("Fix states that do not count, such as will_not_fix.")
    )
    new_only: bool = field(
        default=False, metadata=doc("Count what the last promoted image did not have.")
    )
    max_database_age: Duration | None = field(
        default=None, metadata=doc("Maximum age of the scanner's database; by default 5d.")
    )
    allow_empty: bool = field(
        default=False, metadata=doc("Accept a report for which no package was scanned.")
    )
    about: Literal["auto", "image", "source"] = field(
        default="auto", metadata=doc("What reports must be about when an image is judged.")
    )
    vex: tuple[str, ...] = field(
        default=(), metadata=doc("OpenVEX files: vulnerabilities that do not matter.")
    )

    @property
    def total_max(self) -> int | None:
        """None if only single severities have limits."""
        return 0 if self.max is None and not self.max_by_severity else self.max

    def __post_init__(self) -> None:
        _require_not_negative(self, "max")
        for name, limit in self.max_by_severity.items():
            if name != str(Severity.named(name)):
                raise ConfigError(f"max-by-severity: {name!r} is not a severity")
            if limit < 0:
                raise ConfigError(f"max-by-severity.{name}: {limit} is less than 0")
        if self.epss is not None and not 0 <= self.epss <= 1:
            raise ConfigError(f"epss: {self.epss} is not a probability from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SbomGate(ReportGate):
    """The packages in the image (SBOM)."""

    min_components: int = field(default=1, metadata=doc("Minimum number of packages."))
    deny_licenses: tuple[str, ...] = field(
        default=(), metadata=doc("Licences that are not allowed, as globs like AGPL-*.")
    )
    unknown_licenses: Literal["allow", "deny"] = field(
        default="allow", metadata=doc("Packages without a licence: allow or deny.")
    )
    deny_packages: tuple[str, ...] = field(
        default=(), metadata=doc("Packages that are not allowed, by name or purl, as globs.")
    )
    about: Literal["auto", "image", "source"] = field(
        default="auto", metadata=doc("What reports must be about when an image is judged.")
    )

    def __post_init__(self) -> None:
        _require_not_negative(self, "min_components")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGate(GateRules):
    """Properties of the pushed image, for each platform."""

    max_size: ByteSize | None = field(default=None, metadata=doc("Maximum compressed size."))
    max_growth: float | None = field(
        default=None, metadata=doc("Maximum growth since the last promoted image, in percent.")
    )
    non_root: bool = field(default=False, metadata=doc("The user must not be root."))
    bases: tuple[str, ...] = field(default=(), metadata=doc("Allowed base images, as globs."))
    labels: Mapping[str, str] = field(
        default_factory=dict, metadata=doc("Required labels, with a glob for the value.")
    )
    max_layers: int | None = field(default=None, metadata=doc("Maximum number of layers."))
    ports: tuple[str, ...] | None = field(
        default=None, metadata=doc("Ports that may be exposed, such as 8080/tcp.")
    )
    platforms: tuple[str, ...] = field(
        default=(), metadata=doc("Required platforms, such as linux/arm64.")
    )
    revision: bool = field(
        default=False, metadata=doc("The revision label must name the judged commit.")
    )

    def __post_init__(self) -> None:
        _require_not_negative(self, "max_growth", "max_layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandGate(GateRules):
    """A program that judges: context as JSON in, verdict as JSON out (docs/gates.md)."""

    run: str | tuple[str, ...] = field(metadata=doc("The program with its arguments."))
    timeout: Duration = field(default=Duration(600_000), metadata=doc("Maximum run time."))


REPORT_GATES: Mapping[str, type[ReportGate]] = {
    "coverage": CoverageGate,
    "tests": TestsGate,
    "analysis": FindingsGate,
    "secrets": SecretsGate,
    "dast": DastGate,
    "vulnerabilities": VulnerabilitiesGate,
    "sbom": SbomGate,
}
"""The gates that read reports, by their key in the section."""

Gate = (
    CoverageGate
    | TestsGate
    | FindingsGate
    | DastGate
    | VulnerabilitiesGate
    | SbomGate
    | ImageGate
    | CommandGate
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatesSection:
    """Each key holds one gate, or a list of named gates."""

    coverage: CoverageGate | tuple[CoverageGate, ...] | None = field(
        default=None, metadata=doc("Test coverage.")
    )
    tests: TestsGate | tuple[TestsGate, ...] | None = field(
        default=None, metadata=doc("Test results (JUnit).")
    )
    analysis: FindingsGate | tuple[FindingsGate, ...] | None = field(
        default=None, metadata=doc("Static analysis (SARIF).")
    )
    secrets: SecretsGate | tuple[SecretsGate, ...] | None = field(
        default=None, metadata=doc("Secrets in the source (SARIF).")
    )
    dast: DastGate | tuple[DastGate, ...] | None = field(
        default=None, metadata=doc("Dynamic analysis of a running service (ZAP, Nuclei, SARIF).")
    )
    vulnerabilities: VulnerabilitiesGate | tuple[VulnerabilitiesGate, ...] | None = field(
        default=None, metadata=doc("Known vulnerabilities of packages.")
    )
    sbom: SbomGate | tuple[SbomGate, ...] | None = field(
        default=None, metadata=doc("Packages in the image (CycloneDX, SPDX).")
    )
    image: ImageGate | tuple[ImageGate, ...] | None = field(
        default=None, metadata=doc("Properties of the pushed image.")
    )
    commands: Mapping[str, CommandGate] = field(
        default_factory=dict, metadata=doc("Programs that judge, by name.")
    )
    waivers: tuple[Waiver, ...] = field(
        default=(), metadata=doc("Waivers, each with an owner and an end date.")
    )
    waiver_files: tuple[str, ...] = field(
        default=(), metadata=doc("YAML or JSON files with a list of waivers.")
    )
    max_age: Duration = field(
        default=Duration(86_400_000), metadata=doc("Maximum age of a report.")
    )
    on_incomplete: Literal["fail", "warn"] = field(
        default="fail", metadata=doc("What to do if a gate cannot tell.")
    )
    blocks_in: tuple[Glob, ...] = field(
        default=(),
        metadata=doc("Environments in which gates block, as globs; in others they warn."),
    )

    def __post_init__(self) -> None:
        names = [name for name, _, _ in self.gates()]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ConfigError(
                f"two gates are called {min(twice)}", hint="give each gate its own name"
            )

    def gates(self) -> Iterator[tuple[str, str, Gate]]:
        """Name, kind and rules of every gate, in the order of this section."""
        for kind in KINDS:
            gates = getattr(self, kind)
            if gates is None:
                continue
            for gate in gates if isinstance(gates, tuple) else (gates,):
                yield gate.name or kind, kind, gate
        for name, command in self.commands.items():
            yield command.name or name, "command", command

    def environments(self) -> dict[str, tuple[Glob, ...]]:
        """The environments in which each gate blocks, by its name; empty for all."""
        return {name: rules.blocks_in or self.blocks_in for name, _, rules in self.gates()}

    def with_defaults(self, kinds: Iterable[str]) -> GatesSection:
        """With a default gate for each of `kinds`, keys of REPORT_GATES, that is not configured."""
        missing: dict[str, Any] = {
            kind: REPORT_GATES[kind]() for kind in kinds if getattr(self, kind) is None
        }
        return replace(self, **missing)


KINDS = (*REPORT_GATES, "image")


def split_format(text: str) -> tuple[str, str]:
    """Format and path of `FORMAT:PATH`; the format is empty for a plain path."""
    head, colon, tail = text.partition(":")
    return (head, tail) if colon and head in REPORT_FORMATS else ("", text)


def _require_not_negative(rules: Any, *keys: str) -> None:
    for key in keys:
        value = getattr(rules, key)
        if value is not None and not value >= 0:
            raise ConfigError(f"{_key(key)}: {value} is less than 0")


def _key(name: str) -> str:
    return name.replace("_", "-")
