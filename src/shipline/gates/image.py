"""The image gate: facts of the pushed image, for each platform."""

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
    """Checks for the image of `context`; without one, and for one without platforms, doubt."""
    image = context.image
    if image is None:
        return [undecided("image", "no image was named", "--image NAME@DIGEST")], Measurements()
    if not image.platforms:
        return [undecided("image", f"{image.digest} holds no platform")], Measurements()
    checks = [*_platforms(rules, image)]
    for facts in image.platforms:
        checks += _each(rules, facts, context, gate)
    numbers = {f"size {one.platform}": one.size for one in image.platforms}
    return checks or [skipped("image", "the gate asks for nothing")], Measurements(numbers)


def _platforms(rules: ImageGate, image: ImageSubject) -> Iterator[Check]:
    if not rules.platforms:
        return
    has = [one.platform for one in image.platforms]
    missing = [one for one in rules.platforms if one not in has]
    reason = f"it has {', '.join(has)}" + (f", not {', '.join(missing)}" if missing else "")
    yield _check("platforms", not missing, reason, limit=", ".join(rules.platforms))


def _each(rules: ImageGate, facts: ImageFacts, context: GateContext, gate: str) -> Iterator[Check]:
    on = facts.platform
    if rules.max_size is not None:
        size = shown_size(facts.size)
        reason = f"{on}: {size} compressed in {counted(facts.layers, 'layer')}"
        good = facts.size <= rules.max_size.bytes
        yield _check(f"size {on}", good, reason, size, f"<= {rules.max_size}")
    if rules.max_growth is not None:
        yield _growth(facts, context, gate, rules.max_growth)
    if rules.non_root:
        reason = f"{on}: the user is {facts.user or 'root (none is set)'}"
        hint = "write USER with another one in the Dockerfile"
        yield _check(f"user {on}", not facts.root, reason, facts.user or "root", "not root", hint)
    if rules.max_layers is not None:
        what = f"{on}: {counted(facts.layers, 'layer')}"
        yield bound(f"layers {on}", facts.layers, rules.max_layers, what=what)
    if rules.bases:
        yield _base(rules, facts)
    if rules.ports is not None:
        yield _ports(facts, rules.ports)
    yield from (_label(facts, key, pattern) for key, pattern in rules.labels.items())
    if rules.revision:
        yield _revision(facts, context.revision)


def _growth(facts: ImageFacts, context: GateContext, gate: str, limit: float) -> Check:
    before = context.before(gate)
    old = before.numbers.get(f"size {facts.platform}", 0) if before else 0
    name = f"growth {facts.platform}"
    if not old:
        return skipped(name, "there is no promoted image to compare with yet")
    growth = 100 * (facts.size - old) / old
    reason = f"{facts.platform}: {shown_size(facts.size)} after {shown_size(int(old))}"
    return _check(name, growth <= limit, reason, f"{growth:+.1f} %", f"<= {limit:g} %")


def _base(rules: ImageGate, facts: ImageFacts) -> Check:
    name = f"base {facts.platform}"
    if not facts.base:
        hint = "build with the label org.opencontainers.image.base.name"
        return undecided(name, f"{facts.platform}: the image does not tell its base", hint)
    good = any(fnmatchcase(facts.base, pattern) for pattern in rules.bases)
    reason = f"{facts.platform}: the base is {facts.base}"
    return _check(name, good, reason, facts.base, ", ".join(rules.bases))


def _ports(facts: ImageFacts, allowed: tuple[str, ...]) -> Check:
    known = {one if "/" in one else f"{one}/tcp" for one in allowed}
    more = [one for one in facts.ports if (one if "/" in one else f"{one}/tcp") not in known]
    exposed = ", ".join(facts.ports) or "no port"
    reason = f"{facts.platform}: exposes {exposed}"
    limit = ", ".join(allowed) or "none"
    return _check(f"ports {facts.platform}", not more, reason, exposed, limit)


def _label(facts: ImageFacts, key: str, pattern: str) -> Check:
    value = facts.labels.get(key)
    good = value is not None and fnmatchcase(value, pattern or "*")
    reason = f"{facts.platform}: the label {key} is " + ("missing" if value is None else value)
    return _check(f"label {key} {facts.platform}", good, reason, value or "", pattern or "*")


def _revision(facts: ImageFacts, wanted: str) -> Check:
    name, value = (
        f"revision {facts.platform}",
        facts.labels.get(PULL_MERGE) or facts.labels.get(REVISION, ""),
    )
    if not wanted or not value:
        what = "no revision was named" if value else f"the image has no label {REVISION}"
        return undecided(name, f"{facts.platform}: {what}")
    reason = f"{facts.platform}: built from {value[:12]}, judged is {wanted[:12]}"
    if value == wanted:
        return _check(name, True, reason, value[:12], wanted[:12])
    return undecided(name, reason, "name the image of this revision")


def _check(
    name: str, good: bool, reason: str, measured: str = "", limit: str = "", hint: str = ""
) -> Check:
    outcome = Outcome.PASS if good else Outcome.FAIL
    reason = reason if good else f"{reason}, allowed is {limit}"
    return Check(name, outcome, reason, measured, limit, "" if good else hint)
