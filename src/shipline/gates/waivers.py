"""Waivers: exceptions with an owner, a reason and an end; read from files, applied, and reported
when they expired or match nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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


def _doc(text: str) -> dict[str, str]:
    return {"doc": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """An exception with an owner and an end. Names are globs; empty ones match everything.

    With none of `id`, `package`, `purl` and `path` it waives the whole gate that it names.
    """

    owner: str = field(metadata=_doc("Who answers for it."))
    reason: str = field(metadata=_doc("Why it is acceptable."))
    until: Day = field(metadata=_doc("The last day on which it holds, like 2026-12-31."))
    id: str = field(default="", metadata=_doc("Vulnerability, alias or rule, as a glob."))
    package: str = field(default="", metadata=_doc("Name of the package, as a glob."))
    purl: str = field(default="", metadata=_doc("Package URL, as a glob."))
    path: str = field(default="", metadata=_doc("File or target, as a glob."))
    gate: str = field(default="", metadata=_doc("Name of the gate, as a glob."))
    image: str = field(default="", metadata=_doc("Repository of the image, as a glob."))
    environment: str = field(default="", metadata=_doc("Environment it holds in, as a glob."))

    def __post_init__(self) -> None:
        for key in ("owner", "reason"):
            if not getattr(self, key).strip():
                raise ConfigError(f"{key}: a waiver needs its {key}")
        if self.path:
            glob(self.path)
        if self.whole and not self.gate:
            raise ConfigError("a waiver needs id, package, purl, path or gate: it waives nothing")

    @property
    def whole(self) -> bool:
        return not (self.id or self.package or self.purl or self.path)

    def __str__(self) -> str:
        parts = ("id", "package", "purl", "path", "gate", "image", "environment")
        return " ".join(f"{key}={getattr(self, key)}" for key in parts if getattr(self, key))


_KEYS = {one.name for one in dataclasses.fields(Waiver)}
_NEEDED = ("owner", "reason", "until")
_LIMIT = 4 << 20  # bytes


def read_waivers(paths: Iterable[str], root: Path) -> list[Waiver]:
    """All waivers of the files, which hold a list or a mapping with the key `waivers`.

    Raises ConfigError that names file and waiver.
    """
    return [waiver for path in paths for waiver in _file(root / path, path)]


def _file(file: Path, path: str) -> Iterator[Waiver]:
    document = _load(file, path)
    if isinstance(document, dict) and [*document] == ["waivers"]:
        document = document["waivers"]
    if document is None:
        return
    if not isinstance(document, list):
        raise ConfigError(f"{path}: a file of waivers holds a list of them")
    for place, one in enumerate(document, 1):
        try:
            yield waiver_from(one)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{path}: waiver {place}: {error}") from None


def waiver_from(value: object) -> Waiver:
    """A waiver from a mapping of texts. Raises ConfigError or ValueError."""
    if not isinstance(value, dict):
        raise ConfigError("a waiver is a mapping")
    unknown = sorted(str(key) for key in value if key not in _KEYS)
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    for key in _NEEDED:
        if value.get(key) in (None, ""):
            raise ConfigError(f"a waiver needs {', '.join(_NEEDED)}: {key} is missing")
    texts = {key: _text(key, one) for key, one in value.items() if key != "until"}
    until = value["until"]
    return Waiver(until=Day(until) if type(until) is date else Day.parse(str(until)), **texts)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{key} is not text: {value!r:.60}")
    return value


def _load(file: Path, path: str) -> object:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        if file.stat().st_size > _LIMIT:
            raise ConfigError(f"{path} is larger than {_LIMIT >> 20} MiB")
        return YAML(typ="safe", pure=True).load(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "it is no YAML"
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: {problem}") from None


_OF_ITEMS = ("analysis", "secrets", "vulnerabilities")
_NO_TIME = datetime.min.replace(tzinfo=UTC)
T = TypeVar("T", Finding, Vulnerability)


@dataclass(frozen=True, slots=True)
class WaivedFindings(Generic[T]):
    """`kept` count, `waived` do not; `expired` are those of `kept` that a waiver covered once."""

    kept: tuple[T, ...]
    waived: tuple[tuple[T, str], ...] = ()
    expired: tuple[tuple[T, Waiver], ...] = ()


@dataclass(slots=True)
class Waivers:
    """The waivers of a section; keeps count of those that were needed while gates are judged."""

    waivers: Sequence[Waiver]
    context: GateContext
    used: set[int] = field(default_factory=set)

    def sort(
        self, gate: str, items: Iterable[T], statements: Sequence[VexStatement] = ()
    ) -> WaivedFindings[T]:
        """Tell apart what counts and what is waived."""
        kept: list[T] = []
        waived: list[tuple[T, str]] = []
        expired: list[tuple[T, Waiver]] = []
        for item in items:
            waiver = self._find(gate, item)
            if waiver is not None and not waiver.until.over(self.context.now):
                waived.append((item, f"{waiver.reason} ({waiver.owner}, until {waiver.until})"))
                continue
            if isinstance(item, Vulnerability) and (why := excused(item, statements, self.context)):
                waived.append((item, f"VEX: {why}"))
                continue
            kept.append(item)
            if waiver is not None:
                expired.append((item, waiver))
        return WaivedFindings(tuple(kept), tuple(waived), tuple(expired))

    def waive(self, verdict: Verdict) -> Verdict:
        """The verdict, with what a waiver of the whole gate takes away."""
        if verdict.outcome not in (Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE):
            return verdict
        for place, waiver in enumerate(self.waivers):
            if waiver.whole and self._holds(waiver, verdict.gate):
                self.used.add(place)
                if waiver.until.over(self.context.now):
                    return replace(verdict, checks=(*verdict.checks, _over(waiver)))
                return replace(
                    verdict, checks=tuple(_waived(one, waiver) for one in verdict.checks)
                )
        return verdict

    def unused(self, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
        """A warning for each waiver that nobody needed, where all gates it is for could tell."""
        return tuple(
            f"the waiver {waiver} is not needed: remove it"
            for place, waiver in enumerate(self.waivers)
            if place not in self.used and self._was_tried(waiver, verdicts)
        )

    def _was_tried(self, waiver: Waiver, verdicts: Sequence[Verdict]) -> bool:
        meant = [
            one
            for one in verdicts
            if self._holds(waiver, one.gate) and (waiver.whole or one.kind in _OF_ITEMS)
        ]
        decided = [not one.outcome.undecided and bool(one.measurements.numbers) for one in meant]
        return bool(decided) and all(decided)

    def _find(self, gate: str, item: Finding | Vulnerability) -> Waiver | None:
        """The waiver for `item`: one that holds before one that is over."""
        found = [
            (waiver.until.over(self.context.now), place)
            for place, waiver in enumerate(self.waivers)
            if not waiver.whole and self._holds(waiver, gate) and _matches(waiver, item)
        ]
        if not found:
            return None
        self.used.update(place for _, place in found)
        return self.waivers[min(found)[1]]

    def _holds(self, waiver: Waiver, gate: str) -> bool:
        pairs = (
            (waiver.gate, gate),
            (waiver.image, self.context.repository),
            (waiver.environment, self.context.environment),
        )
        return all(not pattern or fnmatchcase(text, pattern) for pattern, text in pairs)


def expired_checks(found: Iterable[tuple[object, Waiver]]) -> tuple[Check, ...]:
    """A failure for each waiver that is over and still needed."""
    waivers = dict.fromkeys(waiver for _, waiver in found)
    return tuple(_over(waiver) for waiver in waivers)


def _over(waiver: Waiver) -> Check:
    return Check(
        "waiver",
        Outcome.FAIL,
        f"the waiver {waiver} ended on {waiver.until}",
        hint=f"fix it, or ask {waiver.owner} for a new end date in a commit",
    )


def let_through(verdict: Verdict, blocks_in: Sequence[Glob], environment: str) -> Verdict:
    """The verdict for an environment: where the gate does not block, what is wrong is WAIVED.

    Without a name of an environment, or of those where it blocks, it blocks.
    """
    if not environment or not blocks_in or any(one.matches(environment) for one in blocks_in):
        return verdict
    why = f"it does not block in {environment}"
    return replace(verdict, checks=tuple(_without(one, why) for one in verdict.checks))


def _waived(check: Check, waiver: Waiver) -> Check:
    return _without(check, f"waived until {waiver.until} by {waiver.owner}: {waiver.reason}")


def _without(check: Check, why: str) -> Check:
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


def excused(item: Vulnerability, statements: Iterable[VexStatement], context: GateContext) -> str:
    """Why VEX says that it does not matter, empty where it does: the latest statement decides."""
    about = [one for one in statements if _is_about(one, item, context)]
    if not about:
        return ""
    latest = max(reversed(about), key=lambda one: one.at or _NO_TIME)
    if latest.status not in ("not_affected", "fixed"):
        return ""
    return f"{latest.status.replace('_', ' ')}: {latest.justification}".removesuffix(": ")


def _is_about(statement: VexStatement, item: Vulnerability, context: GateContext) -> bool:
    if not {statement.vulnerability, *statement.aliases} & set(item.names):
        return False
    if any(_same_package(product, item.purl) for product in statement.products):
        return not statement.parts
    if not any(_is_image(product, context) for product in statement.products):
        return False
    return not statement.parts or any(_same_package(one, item.purl) for one in statement.parts)


def _same_package(pattern: str, purl: str) -> bool:
    """A package URL without version is about all versions; qualifiers and subpaths do not count."""
    wanted, has = _package(pattern), _package(purl)
    return wanted is not None and has is not None and has[: len(wanted)] == wanted


@lru_cache(4096)
def _package(purl: str) -> tuple[str | None, ...] | None:
    """Type, namespace, name and, where it has one, version; None for what is no package URL."""
    from packageurl import PackageURL

    try:
        found = PackageURL.from_string(purl)
    except ValueError:
        return None
    package = (found.type, found.namespace, found.name)
    return (*package, found.version) if found.version else package


def _is_image(product: str, context: GateContext) -> bool:
    if context.image is None:
        return False
    digests = {context.image.digest} | {one.digest for one in context.image.platforms}
    plain = product.replace("%3A", ":").replace("%3a", ":")
    return any(digest in plain for digest in digests)
