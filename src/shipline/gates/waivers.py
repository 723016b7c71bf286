"""Waivers: exceptions with an owner, a reason and an end date. Expired and unused ones are
reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from shipline.errors import ConfigError
from shipline.gates.context import GateContext
from shipline.gates.reports import Finding, VexStatement, Vulnerability
from shipline.gates.verdict import Check, Outcome, Verdict
from shipline.globs import Glob, glob
from shipline.units import Day
from shipline.values import doc, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """An exception with an owner and an end date. Fields are globs; empty ones match everything.

    Without `id`, `package`, `purl` and `path` it waives the whole gate that it names.
    """

    owner: str = field(metadata=doc("Who is responsible for it."))
    reason: str = field(metadata=doc("Why it is acceptable."))
    until: Day = field(metadata=doc("The last day on which it applies, such as 2026-12-31."))
    id: str = field(default="", metadata=doc("Vulnerability, alias or rule, as a glob."))
    package: str = field(default="", metadata=doc("Name of the package, as a glob."))
    purl: str = field(default="", metadata=doc("Package URL, as a glob."))
    path: str = field(default="", metadata=doc("File or target, as a glob."))
    gate: str = field(default="", metadata=doc("Name of the gate, as a glob."))
    image: str = field(default="", metadata=doc("Repository of the image, as a glob."))
    environment: str = field(default="", metadata=doc("Environment, as a glob."))

    def __post_init__(self) -> None:
        for key in ("owner", "reason"):
            if not getattr(self, key).strip():
                raise ConfigError(f"{key}: must not be empty", code="waiver-invalid")
        if self.path:
            glob(self.path)
        if self.whole_gate and not self.gate:
            raise ConfigError(
                "a waiver needs id, package, purl, path or gate", code="waiver-invalid"
            )

    @property
    def whole_gate(self) -> bool:
        return not (self.id or self.package or self.purl or self.path)

    def __str__(self) -> str:
        components = ("id", "package", "purl", "path", "gate", "image", "environment")
        return " ".join(f"{key}={getattr(self, key)}" for key in components if getattr(self, key))


_KEYS = {option.name for option in dataclasses.fields(Waiver)}
_REQUIRED = ("owner", "reason", "until")
_SIZE_LIMIT = 4 << 20  # bytes


def read_waivers(paths: Iterable[str], root: Path) -> list[Waiver]:
    """The waivers of files that hold a list, or a mapping with the key `waivers`.

    Raises ConfigError with the file and the number of the waiver.
    """
    return [waiver for path in paths for waiver in _file(root / path, path)]


def _file(file: Path, path: str) -> Iterator[Waiver]:
    document = _load(file, path)
    if isinstance(document, dict) and [*document] == ["waivers"]:
        document = document["waivers"]
    if document is None:
        return
    if not isinstance(document, list):
        raise ConfigError(f"{path}: not a list of waivers", code="waiver-invalid")
    for number, entry in enumerate(document, 1):
        try:
            yield waiver_from(entry)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{path}: waiver {number}: {error}", code="waiver-invalid") from None


def waiver_from(value: object) -> Waiver:
    """A waiver from a mapping of strings. Raises ConfigError or ValueError."""
    if not isinstance(value, dict):
        raise ConfigError("a waiver must be a mapping", code="waiver-invalid")
    unknown = sorted(str(key) for key in value if key not in _KEYS)
    if unknown:
        raise ConfigError(
            f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}",
            code="waiver-invalid",
        )
    for key in _REQUIRED:
        if value.get(key) in (None, ""):
            raise ConfigError(
                f"a waiver needs {', '.join(_REQUIRED)}: {key} is missing", code="waiver-invalid"
            )
    texts = {key: _text(key, text) for key, text in value.items() if key != "until"}
    until = value["until"]
    return Waiver(until=Day(until) if type(until) is date else Day.parse(str(until)), **texts)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{key} is not a string: {value!r:.60}", code="waiver-invalid")
    return value


def _load(file: Path, path: str) -> object:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        if file.stat().st_size > _SIZE_LIMIT:
            raise ConfigError(
                f"{path} is larger than {_SIZE_LIMIT >> 20} MiB", code="waiver-invalid"
            )
        return YAML(typ="safe", pure=True).load(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", code="file-unreadable") from None
    except (YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "not valid YAML"
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: {problem}", code="waiver-invalid") from None


_ITEM_KINDS = ("analysis", "secrets", "dast", "vulnerabilities")
_EARLIEST = datetime.min.replace(tzinfo=UTC)
T = TypeVar("T", Finding, Vulnerability)


@dataclass(frozen=True, slots=True)
class WaivedFindings(Generic[T]):
    """`kept` count, `waived` do not; `expired` are `kept` ones with an expired waiver."""

    kept: tuple[T, ...]
    waived: tuple[tuple[T, str], ...] = ()
    expired: tuple[tuple[T, Waiver], ...] = ()


@dataclass(slots=True)
class Waivers:
    """The waivers of a section; `used` collects the indexes of those that were needed."""

    waivers: Sequence[Waiver]
    context: GateContext
    used: set[int] = field(default_factory=set)

    def split(
        self, gate: str, items: Iterable[T], statements: Sequence[VexStatement] = ()
    ) -> WaivedFindings[T]:
        """Split findings into those that count and those that are waived."""
        kept: list[T] = []
        waived: list[tuple[T, str]] = []
        expired: list[tuple[T, Waiver]] = []
        for item in items:
            waiver = self._find(gate, item)
            if waiver is not None and not waiver.until.over(self.context.now):
                waived.append((item, f"{waiver.reason} ({waiver.owner}, until {waiver.until})"))
                continue
            if isinstance(item, Vulnerability) and (
                why := vex_exemption(item, statements, self.context)
            ):
                waived.append((item, f"VEX: {why}"))
                continue
            kept.append(item)
            if waiver is not None:
                expired.append((item, waiver))
        return WaivedFindings(tuple(kept), tuple(waived), tuple(expired))

    def waive(self, verdict: Verdict) -> Verdict:
        """The verdict, waived if a waiver covers the whole gate."""
        if verdict.outcome not in (Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE):
            return verdict
        for index, waiver in enumerate(self.waivers):
            if waiver.whole_gate and self._applies(waiver, verdict.gate):
                self.used.add(index)
                if waiver.until.over(self.context.now):
                    return replace(verdict, checks=(*verdict.checks, _expired(waiver)))
                return replace(
                    verdict, checks=tuple(_waived(check, waiver) for check in verdict.checks)
                )
        return verdict

    def unused(self, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
        """A warning for each waiver that was not needed, if all of its gates could tell."""
        return tuple(
            f"the waiver {waiver} is not needed: remove it"
            for index, waiver in enumerate(self.waivers)
            if index not in self.used and self._was_judged(waiver, verdicts)
        )

    def _was_judged(self, waiver: Waiver, verdicts: Sequence[Verdict]) -> bool:
        verdicts_covered = [
            verdict
            for verdict in verdicts
            if self._applies(waiver, verdict.gate)
            and (waiver.whole_gate or verdict.kind in _ITEM_KINDS)
        ]
        decided = [
            not verdict.outcome.undecided and bool(verdict.measurements.numbers)
            for verdict in verdicts_covered
        ]
        return bool(decided) and all(decided)

    def _find(self, gate: str, item: Finding | Vulnerability) -> Waiver | None:
        """The waiver for `item`; valid ones come before expired ones."""
        matches = [
            (waiver.until.over(self.context.now), index)
            for index, waiver in enumerate(self.waivers)
            if not waiver.whole_gate and self._applies(waiver, gate) and _matches(waiver, item)
        ]
        if not matches:
            return None
        self.used.update(index for _, index in matches)
        return self.waivers[min(matches)[1]]

    def _applies(self, waiver: Waiver, gate: str) -> bool:
        pairs = (
            (waiver.gate, gate),
            (waiver.image, self.context.repository),
            (waiver.environment, self.context.environment),
        )
        return all(not pattern or fnmatchcase(text, pattern) for pattern, text in pairs)


def expired_checks(expired: Iterable[tuple[object, Waiver]]) -> tuple[Check, ...]:
    """A failure for each waiver that has expired and is still needed."""
    waivers = dict.fromkeys(waiver for _, waiver in expired)
    return tuple(_expired(waiver) for waiver in waivers)


def _expired(waiver: Waiver) -> Check:
    return Check(
        "waiver",
        Outcome.FAIL,
        f"the waiver {waiver} expired on {waiver.until}",
        hint=f"fix the finding, or have {waiver.owner} commit a new end date",
    )


def waive_outside(verdict: Verdict, blocks_in: Sequence[Glob], environment: str) -> Verdict:
    """The verdict for `environment`: failures are WAIVED unless the gate blocks there.

    It blocks if no environment is given, or `blocks_in` is empty.
    """
    if (
        not environment
        or not blocks_in
        or any(pattern.matches(environment) for pattern in blocks_in)
    ):
        return verdict
    why = f"it does not block in {environment}"
    return replace(verdict, checks=tuple(_as_waived(check, why) for check in verdict.checks))


def _waived(check: Check, waiver: Waiver) -> Check:
    return _as_waived(check, f"waived until {waiver.until} by {waiver.owner}: {waiver.reason}")


def _as_waived(check: Check, why: str) -> Check:
    if check.outcome not in (Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE):
        return check
    return replace(check, outcome=Outcome.WAIVED, reason=f"{check.reason}; {why}")


def _matches(waiver: Waiver, item: Finding | Vulnerability) -> bool:
    if isinstance(item, Finding):
        names, package, purl = [item.rule, item.fingerprint], "", ""
    else:
        names, package, purl = [*item.names], item.package, item.purl
    if waiver.id and not any(fnmatchcase(name, waiver.id) for name in names if name):
        return False
    if waiver.path and not glob(waiver.path).fullmatch(item.path):
        return False
    pairs = ((waiver.package, package), (waiver.purl, purl))
    return all(not pattern or (text and fnmatchcase(text, pattern)) for pattern, text in pairs)


def vex_exemption(
    item: Vulnerability, statements: Iterable[VexStatement], context: GateContext
) -> str:
    """Why VEX exempts the vulnerability; empty if it does not. The latest statement decides."""
    about = [statement for statement in statements if _is_about(statement, item, context)]
    if not about:
        return ""
    latest = max(reversed(about), key=lambda statement: statement.at or _EARLIEST)
    if latest.status not in ("not_affected", "fixed"):
        return ""
    return f"{latest.status.replace('_', ' ')}: {latest.justification}".removesuffix(": ")


def _is_about(statement: VexStatement, item: Vulnerability, context: GateContext) -> bool:
    if not {statement.vulnerability, *statement.aliases} & set(item.names):
        return False
    if any(_same_package(product, item.purl) for product in statement.products):
        return not statement.subcomponents
    if not any(_is_image(product, context) for product in statement.products):
        return False
    return not statement.subcomponents or any(
        _same_package(part, item.purl) for part in statement.subcomponents
    )


def _same_package(pattern: str, purl: str) -> bool:
    """A package URL without a version means all versions; qualifiers and subpaths are ignored."""
    stated, actual = _package(pattern), _package(purl)
    return stated is not None and actual is not None and actual[: len(stated)] == stated


@lru_cache(4096)
def _package(purl: str) -> tuple[str | None, ...] | None:
    """Type, namespace, name and version, if it has one; None if it is not a package URL."""
    from packageurl import PackageURL

    try:
        parsed = PackageURL.from_string(purl)
    except ValueError:
        return None
    package = (parsed.type, parsed.namespace, parsed.name)
    return (*package, parsed.version) if parsed.version else package


def _is_image(product: str, context: GateContext) -> bool:
    if context.image is None:
        return False
    digests = {context.image.digest} | {platform.digest for platform in context.image.platforms}
    unescaped = product.replace("%3A", ":").replace("%3a", ":")
    return any(digest in unescaped for digest in digests)
