"""The section `gates` of shipline.yaml: which gates there are and what they ask for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from shipline.errors import ConfigError
from shipline.gates.reports import FORMATS, Severity
from shipline.gates.waivers import Waiver
from shipline.globs import Glob
from shipline.units import ByteSize, Duration


def _doc(text: str) -> dict[str, str]:
    return {"doc": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What every gate has."""

    name: str = field(default="", metadata=_doc("Its name in messages; the key if left out."))
    early: bool = field(default=False, metadata=_doc("Run it in git hooks, before the commit."))
    skip: str = field(default="", metadata=_doc("Do not judge it, for this reason."))
    on_incomplete: Literal["fail", "warn", ""] = field(
        default="", metadata=_doc("What to do when it cannot tell: fail (default) or warn.")
    )
    blocks_in: tuple[Glob, ...] = field(
        default=(), metadata=_doc("Environments, as globs; in others it only warns.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportGate(GateRules):
    """What every gate that reads reports has."""

    reports: str | tuple[str, ...] = field(
        default=(), metadata=_doc("Files, as PATH or FORMAT:PATH; globs are allowed.")
    )
    run: str | tuple[str, ...] = field(
        default=(), metadata=_doc("Command that writes the reports; its status is not trusted.")
    )
    timeout: Duration = field(
        default=Duration(1_800_000), metadata=_doc("How long `run` may take.")
    )
    max_age: Duration | None = field(default=None, metadata=_doc("The oldest report that counts."))

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.reports,) if isinstance(self.reports, str) else self.reports


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageGate(ReportGate):
    """How much of the code the tests run, in percent."""

    min: float = field(default=80.0, metadata=_doc("Least percentage of lines that ran."))
    branch_min: float | None = field(
        default=None, metadata=_doc("Minimum branch coverage, in percent.")
    )
    file_min: float | None = field(default=None, metadata=_doc("Least percentage of each file."))
    patch_min: float | None = field(default=None, metadata=_doc("Least percentage of new lines."))
    patch_floor: int = field(default=20, metadata=_doc("Smaller changes are not judged (lines)."))
    max_drop: float | None = field(
        default=None, metadata=_doc("Most percentage points below the last promoted image.")
    )
    deleted_code: Literal["tolerate", "count"] = field(
        default="tolerate", metadata=_doc("A drop that only deleting covered code made is no drop.")
    )
    exclude: tuple[Glob, ...] = field(default=(), metadata=_doc("Files to leave out, as globs."))

    def __post_init__(self) -> None:
        for key in ("min", "branch_min", "file_min", "patch_min"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 100:
                raise ConfigError(f"{_key(key)}: {value} is no percentage from 0 to 100")
        _from_zero_on(self, "patch_floor", "max_drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class TestsGate(ReportGate):
    """How the tests went."""

    __test__ = False  # pytest takes names like this for a class of tests

    min_tests: int = field(default=1, metadata=_doc("Least number of tests that ran."))
    max_failed: int = field(default=0, metadata=_doc("Most failures and errors."))
    max_skipped: int | None = field(default=None, metadata=_doc("Maximum number of skipped tests."))
    max_flaky: int | None = field(
        default=None, metadata=_doc("Most tests that passed only after a failure.")
    )
    max_duration: Duration | None = field(default=None, metadata=_doc("Longest sum of test times."))
    max_lost: int | None = field(
        default=None, metadata=_doc("Most tests fewer than for the last promoted image.")
    )

    def __post_init__(self) -> None:
        _from_zero_on(self, "min_tests", "max_failed", "max_skipped", "max_flaky", "max_lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingsGate(ReportGate):
    """What static analysis or a secret scanner found (SARIF)."""

    max: int = field(default=0, metadata=_doc("Most findings that count."))
    level: Literal["error", "warning", "note", "none"] = field(
        default="warning", metadata=_doc("The lowest SARIF level that counts.")
    )
    severity: Severity | None = field(
        default=None, metadata=_doc("Count these security severities too, at any level.")
    )
    new_only: bool = field(
        default=False, metadata=_doc("Count what the last promoted image did not have.")
    )
    changed_lines_only: bool = field(
        default=False, metadata=_doc("Count what lies on lines that the change touches.")
    )
    suppressed: Literal["ignore", "count"] = field(
        default="ignore", metadata=_doc("What to do with findings suppressed in the source.")
    )

    def __post_init__(self) -> None:
        _from_zero_on(self, "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsGate(FindingsGate):
    """Secrets in the source: a finding of any level counts."""

    level: Literal["error", "warning", "note", "none"] = field(
        default="none", metadata=_doc("The lowest SARIF level that counts.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VulnerabilitiesGate(ReportGate):
    """Known vulnerabilities of packages. A severity that the report does not tell counts as high
    enough.
    """

    max: int | None = field(
        default=None, metadata=_doc("Most that count; 0, or no limit beside max-by-severity.")
    )
    fail_on: Severity = field(
        default=Severity.NEGLIGIBLE, metadata=_doc("The lowest severity that counts.")
    )
    max_by_severity: Mapping[str, int] = field(
        default_factory=dict, metadata=_doc("Most vulnerabilities of one severity, by its name.")
    )
    fix: Literal["any", "available"] = field(
        default="any", metadata=_doc("Count all, or only those that have a fix.")
    )
    grace: Duration | None = field(
        default=None, metadata=_doc("Do not count one whose fix is younger than this.")
    )
    exploited: Literal["count", "as-others"] = field(
        default="count", metadata=_doc("Exploited ones (KEV) count in any case, or as others do.")
    )
    epss: float | None = field(
        default=None, metadata=_doc("Exploitation this probable (0 to 1) counts in any case.")
    )
    ignore_statuses: tuple[str, ...] = field(
        default=(), metadata=_doc("Do not count these fix states, like will_not_fix.")
    )
    new_only: bool = field(
        default=False, metadata=_doc("Count what the last promoted image did not have.")
    )
    max_database_age: Duration | None = field(
        default=None, metadata=_doc("The oldest vulnerability database that counts; 5d if known.")
    )
    allow_empty: bool = field(
        default=False, metadata=_doc("Accept a report that looked at no package at all.")
    )
    about: Literal["auto", "image", "source"] = field(
        default="auto", metadata=_doc("What reports must be about when an image is judged.")
    )
    vex: tuple[str, ...] = field(default=(), metadata=_doc("OpenVEX files that take some away."))

    @property
    def total_max(self) -> int | None:
        """None where only the single severities have limits."""
        return 0 if self.max is None and not self.max_by_severity else self.max

    def __post_init__(self) -> None:
        _from_zero_on(self, "max")
        for name, most in self.max_by_severity.items():
            if name != str(Severity.named(name)):
                raise ConfigError(f"max-by-severity: {name!r} is not a severity")
            if most < 0:
                raise ConfigError(f"max-by-severity.{name}: {most} is less than 0")
        if self.epss is not None and not 0 <= self.epss <= 1:
            raise ConfigError(f"epss: {self.epss} is no probability from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SbomGate(ReportGate):
    """What is inside: the bill of material."""

    min_components: int = field(default=1, metadata=_doc("Least number of packages."))
    deny_licenses: tuple[str, ...] = field(
        default=(), metadata=_doc("Licences that may not be needed, as globs like AGPL-*.")
    )
    unknown_licenses: Literal["allow", "deny"] = field(
        default="allow", metadata=_doc("Packages without a licence: allow or deny.")
    )
    deny_packages: tuple[str, ...] = field(
        default=(), metadata=_doc("Packages that may not be there, by name or purl, as globs.")
    )
    about: Literal["auto", "image", "source"] = field(
        default="auto", metadata=_doc("What reports must be about when an image is judged.")
    )

    def __post_init__(self) -> None:
        _from_zero_on(self, "min_components")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGate(GateRules):
    """Facts of the pushed image, for each of its platforms."""

    max_size: ByteSize | None = field(default=None, metadata=_doc("Most compressed bytes."))
    max_growth: float | None = field(
        default=None, metadata=_doc("Most percent larger than the last promoted image.")
    )
    non_root: bool = field(default=False, metadata=_doc("The user must be another than root."))
    bases: tuple[str, ...] = field(
        default=(), metadata=_doc("Base images that are allowed, as globs.")
    )
    labels: Mapping[str, str] = field(
        default_factory=dict, metadata=_doc("Labels that must be there, with a glob for the value.")
    )
    max_layers: int | None = field(default=None, metadata=_doc("Most layers."))
    ports: tuple[str, ...] | None = field(
        default=None, metadata=_doc("The only ports that may be exposed, like 8080/tcp.")
    )
    platforms: tuple[str, ...] = field(
        default=(), metadata=_doc("Platforms that must be there, like linux/arm64.")
    )
    revision: bool = field(
        default=False, metadata=_doc("The label of the revision must be the one that is judged.")
    )

    def __post_init__(self) -> None:
        _from_zero_on(self, "max_growth", "max_layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandGate(GateRules):
    """A program that judges: JSON in, a verdict as JSON out (docs/gates.md)."""

    run: str | tuple[str, ...] = field(metadata=_doc("The program with its arguments."))
    timeout: Duration = field(default=Duration(600_000), metadata=_doc("How long it may take."))


REPORT_GATES: Mapping[str, type[ReportGate]] = {
    "coverage": CoverageGate,
    "tests": TestsGate,
    "analysis": FindingsGate,
    "secrets": SecretsGate,
    "vulnerabilities": VulnerabilitiesGate,
    "sbom": SbomGate,
}
"""The gates that read reports, by the key of the section that holds them."""

Gate = (
    CoverageGate
    | TestsGate
    | FindingsGate
    | VulnerabilitiesGate
    | SbomGate
    | ImageGate
    | CommandGate
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatesSection:
    """Each key holds one gate, or a list of gates that have names."""

    coverage: CoverageGate | tuple[CoverageGate, ...] | None = field(
        default=None, metadata=_doc("How much of the code the tests run.")
    )
    tests: TestsGate | tuple[TestsGate, ...] | None = field(
        default=None, metadata=_doc("How the tests went (JUnit).")
    )
    analysis: FindingsGate | tuple[FindingsGate, ...] | None = field(
        default=None, metadata=_doc("What static analysis found (SARIF).")
    )
    secrets: SecretsGate | tuple[SecretsGate, ...] | None = field(
        default=None, metadata=_doc("Secrets in the source (SARIF).")
    )
    vulnerabilities: VulnerabilitiesGate | tuple[VulnerabilitiesGate, ...] | None = field(
        default=None, metadata=_doc("Known vulnerabilities of packages.")
    )
    sbom: SbomGate | tuple[SbomGate, ...] | None = field(
        default=None, metadata=_doc("What is inside (CycloneDX, SPDX).")
    )
    image: ImageGate | tuple[ImageGate, ...] | None = field(
        default=None, metadata=_doc("Facts of the pushed image.")
    )
    commands: Mapping[str, CommandGate] = field(
        default_factory=dict, metadata=_doc("Programs that judge, by name.")
    )
    waivers: tuple[Waiver, ...] = field(
        default=(), metadata=_doc("Waivers, each with an owner and an end date.")
    )
    waiver_files: tuple[str, ...] = field(
        default=(), metadata=_doc("YAML or JSON files with a list of exceptions.")
    )
    max_age: Duration = field(
        default=Duration(86_400_000), metadata=_doc("The oldest report that counts.")
    )
    on_incomplete: Literal["fail", "warn"] = field(
        default="fail", metadata=_doc("What to do when a gate cannot tell.")
    )
    blocks_in: tuple[Glob, ...] = field(
        default=(), metadata=_doc("Environments where gates block, as globs; elsewhere they warn.")
    )

    def __post_init__(self) -> None:
        names = [name for name, _, _ in self.gates()]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ConfigError(f"two gates are called {min(twice)}", hint="give each its own name")

    def gates(self) -> Iterator[tuple[str, str, Gate]]:
        """Name, kind and rules of every gate, in the order of this section."""
        for kind in KINDS:
            found = getattr(self, kind)
            if found is None:
                continue
            for one in found if isinstance(found, tuple) else (found,):
                yield one.name or kind, kind, one
        for name, command in self.commands.items():
            yield command.name or name, "command", command

    def with_usual(self, kinds: Iterable[str]) -> GatesSection:
        """With the usual gate of each of the kinds, keys of REPORT_GATES, that it does not have."""
        missing: dict[str, Any] = {
            kind: REPORT_GATES[kind]() for kind in kinds if getattr(self, kind) is None
        }
        return replace(self, **missing)


KINDS = (*REPORT_GATES, "image")


def split_format(text: str) -> tuple[str, str]:
    """Format and path of `FORMAT:PATH`; a path alone has an empty format."""
    head, colon, tail = text.partition(":")
    return (head, tail) if colon and head in FORMATS else ("", text)


def _from_zero_on(rules: Any, *keys: str) -> None:
    for key in keys:
        value = getattr(rules, key)
        if value is not None and not value >= 0:
            raise ConfigError(f"{_key(key)}: {value} is less than 0")


def _key(name: str) -> str:
    return name.replace("_", "-")
