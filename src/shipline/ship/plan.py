"""What a run is going to do: a pure function from the declared chain to steps with reasons."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from shipline.errors import UsageError
from shipline.oci import Digest
from shipline.ship.conditions import unmet
from shipline.ship.scanners import scan_shown
from shipline.ship.section import RESERVED, Pipeline, Step
from shipline.ship.source import Source
from shipline.tags import Event


class Kind(StrEnum):
    """What a step does."""

    COMMAND = "command"
    BUILD = "build"
    GATES = "gates"
    RESERVE = "reserve"
    SIGN = "sign"
    COPY = "copy"
    PUBLISH = "publish"


NAMING = (Kind.RESERVE, Kind.SIGN, Kind.COPY, Kind.PUBLISH)
"""The kinds that make a result visible, which only a judged result may become."""


UNGATED = "nothing is gated: names are given without a look at tests, coverage or vulnerabilities"
UNGATED_HINT = (
    "write `gates` in shipline.yaml, or name a gate in the `reports` of a step: docs/gates.md"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asked for besides the file: which steps, and how a dirty tree is taken.

    `built` are digests of images that other machines have pushed, in place of the build.
    """

    only: frozenset[str] = frozenset()
    skip: frozenset[str] = frozenset()
    built: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Naming:
    """What the tag policy decided, as far as a plan shows it. `git_tag` has to be made, `standing`
    is there; `reuse` is the digest that this commit has in the registry already.
    """

    tags: tuple[tuple[str, str], ...] = ()
    git_tag: str = ""
    standing: str = ""
    push: bool = True
    reuse: Digest | None = None
    refused: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step: what is run after what, and why not where `skip` tells a reason.

    `key` names the work: equal keys make equal results.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    command: str
    key: str
    skip: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run, in an order that its needs allow."""

    image: str
    commit: str
    tree: str
    branch: str
    dirty: bool
    steps: tuple[PlannedStep, ...]
    naming: Naming = field(default_factory=Naming)

    @property
    def ungated(self) -> bool:
        """Whether names are given though nothing is judged."""
        return bool(self.step(Kind.GATES).skip) and not self.step(Kind.PUBLISH).skip

    def step(self, name: str) -> PlannedStep:
        return next(one for one in self.steps if one.name == name)

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        found["naming"]["reuse"] = str(self.naming.reuse or "")
        found["naming"]["tags"] = [
            {"name": name, "reason": reason} for name, reason in self.naming.tags
        ]
        return {"version": 1, **found}


def make_plan(
    pipeline: Pipeline,
    source: Source,
    naming: Naming,
    wanted: Wanted,
    *,
    gates: object,
    event: Event,
    environ: Mapping[str, str],
) -> Plan:
    """The plan. `gates` is what the file has of them, None for nothing; `event` is what started
    the run.

    Raises UsageError for a name in `wanted` that is no step.
    """
    commands = pipeline.commands
    check_names(commands, wanted)
    reasons = _Reasons(pipeline, source, naming, wanted, gates is not None, event, environ)
    planned: dict[str, PlannedStep] = {}
    for name, kind, needs in _ordered(pipeline):
        skip = reasons.of(name, kind, planned)
        above = [planned[one].key for one in needs]
        command = _shown(name, kind, pipeline, naming, wanted)
        key = _key(source, name, command, _inputs(name, kind, pipeline, wanted, gates), above)
        note = reasons.note(name, kind)
        planned[name] = PlannedStep(name, kind, needs, command, key, skip, "" if skip else note)
    image = str(pipeline.image or "")
    return Plan(
        image,
        source.commit,
        source.tree,
        event.branch or source.branch,
        source.dirty,
        tuple(planned.values()),
        naming,
    )


def check_names(commands: Iterable[str], wanted: Wanted) -> None:
    """Raises UsageError for a wish about a step that is not there."""
    known = {*commands, *RESERVED}
    for option, names in (("--only", wanted.only), ("--skip", wanted.skip)):
        for name in sorted(names - known):
            raise UsageError(
                f"{option}: there is no step {name!r}", hint=f"there is {', '.join(sorted(known))}"
            )


def _ordered(pipeline: Pipeline) -> Iterator[tuple[str, Kind, tuple[str, ...]]]:
    """Every step with what it waits for, each after its needs."""
    edges: dict[str, tuple[str, ...]] = {"build": pipeline.build.needs}
    for name, step in pipeline.commands.items():
        implied = ("build",) if step.scanner and "build" not in step.needs else ()
        edges[name] = (*step.needs, *implied)
    done: list[str] = []

    def visit(name: str) -> None:
        if name not in done:
            for needed in edges[name]:
                visit(needed)
            done.append(name)

    for name in (*pipeline.commands, "build"):
        visit(name)
    for name in done:
        yield name, Kind.BUILD if name == "build" else Kind.COMMAND, edges[name]
    yield "gates", Kind.GATES, tuple(done)
    last = "gates"
    for kind in NAMING:
        yield kind.value, kind, (last,)
        last = kind.value


@dataclass(frozen=True, slots=True)
class _Reasons:
    """Why a step is not run, or what is worth knowing about it."""

    pipeline: Pipeline
    source: Source
    naming: Naming
    wanted: Wanted
    gates: bool
    event: Event
    environ: Mapping[str, str]

    def of(self, name: str, kind: Kind, before: Mapping[str, PlannedStep]) -> str:
        if self.wanted.only and name not in self.wanted.only:
            return "not among --only"
        if name in self.wanted.skip:
            return "left out by --skip"
        if kind is Kind.COMMAND:
            return self._command(name, before)
        if kind is Kind.BUILD:
            return "" if self.pipeline.image else "shipline.yaml names no image"
        if kind is Kind.GATES:
            return "" if self.gates else "nothing is gated: shipline.yaml has no gates"
        return self._name_giving(kind, before)

    def _command(self, name: str, before: Mapping[str, PlannedStep]) -> str:
        step = self.pipeline.commands[name]
        if reason := unmet(step.when, self.event, self.environ):
            return reason
        if step.after_build:
            if build := before["build"].skip:
                return f"there is no image to look at: build is {build}"
            if not self.naming.push:
                return "nothing is pushed that could be looked at"
        return ""

    def _name_giving(self, kind: Kind, before: Mapping[str, PlannedStep]) -> str:
        if build := before["build"].skip:
            return f"there is no image: build is {build}"
        if self.gates and (gates := before["gates"].skip):
            return f"nothing gets a name before the gates: they are {gates}"
        if self.naming.refused:
            return self.naming.refused
        if not self.naming.push:
            return f"the tag policy pushes nothing for a {self.event.kind}"
        if kind is Kind.RESERVE and not self.naming.git_tag:
            standing = self.naming.standing
            return f"the git tag {standing} is there" if standing else "there is no version to make"
        if kind is Kind.SIGN and self.pipeline.sign is None:
            return "shipline.yaml names no key"
        if kind is Kind.SIGN and self.source.dirty:
            return "changes that are not committed are never signed"
        if kind is Kind.COPY and not self.pipeline.copies:
            return "shipline.yaml names no copies"
        return ""

    def note(self, name: str, kind: Kind) -> str:
        if kind is not Kind.BUILD:
            return ""
        if self.wanted.built:
            return "built elsewhere, merged here"
        if self.naming.reuse:
            return f"this commit is {self.naming.reuse} already"
        return "" if self.naming.push else "not pushed"


def _shown(name: str, kind: Kind, pipeline: Pipeline, naming: Naming, wanted: Wanted) -> str:
    """What a person would type for it."""
    if kind is Kind.COMMAND:
        return command_shown(pipeline.commands[name])
    image, tags = pipeline.image, [tag for tag, _ in naming.tags]
    if kind is Kind.BUILD:
        return _build_shown(pipeline, wanted)
    if kind is Kind.GATES:
        return "shipline gate"
    if kind is Kind.RESERVE:
        return f"git push --atomic origin HEAD:refs/tags/{naming.git_tag}" if naming.git_tag else ""
    if kind is Kind.SIGN:
        return f"shipline sign --key {pipeline.sign.key} {image}@DIGEST" if pipeline.sign else ""
    if kind is Kind.COPY:
        return "; ".join(f"copy {image}@DIGEST to {copy}" for copy in pipeline.copies)
    places = (image, *pipeline.copies) if image else ()
    return " ".join(f"{place}:{tag}" for place in places for tag in tags)


def command_shown(step: Step) -> str:
    """The command of a step as one types it; a script as it is."""
    if step.scanner:
        return scan_shown(step.scanner)
    return step.run if isinstance(step.run, str) else shlex.join(step.run)


def _build_shown(pipeline: Pipeline, wanted: Wanted) -> str:
    if wanted.built:
        return "merge " + " ".join(map(str, wanted.built))
    build = pipeline.build
    words = ["shipline", "build"]
    if build.platforms:
        words += ["--platform", ",".join(map(str, build.platforms))]
    if build.file:
        words += ["--file", build.file]
    if build.target:
        words += ["--target", build.target]
    words += [f"--build-arg={name}={value}" for name, value in build.args.items()]
    words += ["--output", f"type=image,name={pipeline.image},push=true,push-by-digest=true"]
    return shlex.join([*words, build.context])


def _inputs(name: str, kind: Kind, pipeline: Pipeline, wanted: Wanted, gates: object) -> object:
    """What a step depends on besides the files of the tree and the steps before it."""
    if kind is Kind.COMMAND:
        step = pipeline.commands[name]
        return [repr(replace(step, env={})), sorted(step.env.items())]
    if kind is Kind.BUILD:
        return [repr(pipeline.image), repr(pipeline.build), [str(one) for one in wanted.built]]
    if kind is Kind.GATES:
        return repr(gates)
    if kind is Kind.SIGN:
        return repr(pipeline.sign)
    return repr(pipeline.copies) if kind is Kind.COPY else ""


def _key(source: Source, name: str, command: str, inputs: object, above: list[str]) -> str:
    what = [source.commit, source.tree, name, command, inputs, above]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
