"""The image gate: properties of the pushed image, for each platform."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from shipline.gates.context import PULL_MERGE, REVISION, GateContext, ImageFacts, ImageSubject
from shipline.gates.section import ImageGate
from shipline.gates.thresholds import bound, skipped, undecided
from shipline.gates.verdict import Check, Measurements, Outcome
from shipline.units import counted, shown_size


def judge_image(
    rules: ImageGate, context: GateContext, gate: str
) -> tuple[list[Check], Measurements]:
    """Checks on the image of `context`; INCOMPLETE without an image or without platforms."""
    image = context.image
    if image is None:
        return [undecided("image", "no image is given", "--image NAME@DIGEST")], Measurements()
    if not image.platforms:
        return [undecided("image", f"{image.digest} has no platforms")], Measurements()
    checks = [*_platforms_check(rules, image)]
    for facts in image.platforms:
        checks += _platform_checks(rules, facts, context, gate)
    numbers = {f"size {platform.platform}": platform.size for platform in image.platforms}
    return checks or [skipped("image", "the gate sets no limits")], Measurements(numbers)


def _platforms_check(rules: ImageGate, image: ImageSubject) -> Iterator[Check]:
    if not rules.platforms:
        return
    present = [platform.platform for platform in image.platforms]
    missing = [platform for platform in rules.platforms if platform not in present]
    reason = f"it has {', '.join(present)}" + (f", not {', '.join(missing)}" if missing else "")
    yield _check("platforms", not missing, reason, limit=", ".join(rules.platforms))


def _platform_checks(
    rules: ImageGate, facts: ImageFacts, context: GateContext, gate: str
) -> Iterator[Check]:
    platform = facts.platform
    if rules.max_size is not None:
        size = shown_size(facts.size)
        reason = f"{platform}: {size} compressed in {counted(facts.layers, 'layer')}"
        passed = facts.size <= rules.max_size.bytes
        yield _check(f"size {platform}", passed, reason, size, f"<= {rules.max_size}")
    if rules.max_growth is not None:
        yield _growth(facts, context, gate, rules.max_growth)
    if rules.non_root:
        reason = f"{platform}: the user is {facts.user or 'root (none is set)'}"
        hint = "set another USER in the Dockerfile"
        yield _check(
            f"user {platform}", not facts.root, reason, facts.user or "root", "not root", hint
        )
    if rules.max_layers is not None:
        layers = f"{platform}: {counted(facts.layers, 'layer')}"
        yield bound(f"layers {platform}", facts.layers, rules.max_layers, reason=layers)
    if rules.bases:
        yield _base(rules, facts)
    if rules.ports is not None:
        yield _ports(facts, rules.ports)
    yield from (_label(facts, key, pattern) for key, pattern in rules.labels.items())
    if rules.revision:
        yield _revision(facts, context.revision)


def _growth(facts: ImageFacts, context: GateContext, gate: str, limit: float) -> Check:
    before = context.before(gate)
    size_before = before.numbers.get(f"size {facts.platform}", 0) if before else 0
    name = f"growth {facts.platform}"
    if not size_before:
        return skipped(name, "no promoted image to compare with yet")
    growth = 100 * (facts.size - size_before) / size_before
    reason = f"{facts.platform}: {shown_size(facts.size)} after {shown_size(int(size_before))}"
    return _check(name, growth <= limit, reason, f"{growth:+.1f} %", f"<= {limit:g} %")


def _base(rules: ImageGate, facts: ImageFacts) -> Check:
    name = f"base {facts.platform}"
    if not facts.base:
        hint = "build with the label org.opencontainers.image.base.name"
        return undecided(name, f"{facts.platform}: the image does not name its base", hint)
    passed = any(fnmatchcase(facts.base, pattern) for pattern in rules.bases)
    reason = f"{facts.platform}: the base is {facts.base}"
    return _check(name, passed, reason, facts.base, ", ".join(rules.bases))


def _ports(facts: ImageFacts, allowed: tuple[str, ...]) -> Check:
    normalized = {port if "/" in port else f"{port}/tcp" for port in allowed}
    extra = [
        port for port in facts.ports if (port if "/" in port else f"{port}/tcp") not in normalized
    ]
    exposed = ", ".join(facts.ports) or "no port"
    reason = f"{facts.platform}: exposes {exposed}"
    limit = ", ".join(allowed) or "none"
    return _check(f"ports {facts.platform}", not extra, reason, exposed, limit)


def _label(facts: ImageFacts, key: str, pattern: str) -> Check:
    value = facts.labels.get(key)
    passed = value is not None and fnmatchcase(value, pattern or "*")
    reason = f"{facts.platform}: the label {key} is " + ("missing" if value is None else value)
    return _check(f"label {key} {facts.platform}", passed, reason, value or "", pattern or "*")


def _revision(facts: ImageFacts, expected: str) -> Check:
    name, value = (
        f"revision {facts.platform}",
        facts.labels.get(PULL_MERGE) or facts.labels.get(REVISION, ""),
    )
    if not expected or not value:
        problem = "no revision is given" if value else f"the image has no label {REVISION}"
        return undecided(name, f"{facts.platform}: {problem}")
    reason = f"{facts.platform}: built from {value[:12]}, not {expected[:12]}"
    if value == expected:
        return _check(name, True, reason, value[:12], expected[:12])
    return undecided(name, reason, "give the image of this revision")


def _check(
    name: str, passed: bool, reason: str, measured: str = "", limit: str = "", hint: str = ""
) -> Check:
    outcome = Outcome.PASS if passed else Outcome.FAIL
    reason = reason if passed else f"{reason}; allowed: {limit}"
    return Check(name, outcome, reason, measured, limit, "" if passed else hint)
