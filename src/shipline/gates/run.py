"""All gates of a section, from report files to verdicts, and the check that what was judged is what
a merge would make.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shipline.errors import UsageError
from shipline.gates.commands import judge_command, run_program, shown_command
from shipline.gates.context import GateContext
from shipline.gates.evidence import files, gather
from shipline.gates.image import judge_image
from shipline.gates.judging import advisory, judge
from shipline.gates.section import Gate, GatesSection, ImageGate, ReportGate, VulnerabilitiesGate
from shipline.gates.thresholds import skipped
from shipline.gates.verdict import Check, Outcome, Verdict, Verdicts
from shipline.gates.waivers import Waivers, let_through, read_waivers
from shipline.git import Git, GitError, is_ancestor, resolve
from shipline.tasks import TaskGroup
from shipline.units import counted


def merge_verdict(git: Git, base: str) -> Verdict:
    """Whether HEAD has all of `base`: else its reports say nothing of the merged code.

    A commit that merges the two, which CI systems make for merge requests, has it. Raises GitError
    where `base` is no commit.
    """
    tip = resolve(git, base)
    if not tip:
        raise GitError(f"there is no commit {base} in this clone", hint=f"git fetch origin {base}")
    if is_ancestor(git, tip, "HEAD"):
        check = Check("up to date", Outcome.PASS, f"it has all of {base}")
    else:
        behind = git.text("rev-list", "--count", f"HEAD..{tip}")
        commits = counted(int(behind), "commit that is", "commits that are")
        reason = f"{base} has {commits} not in this branch"
        hint = f"git merge {base}, and run the tests again"
        check = Check("up to date", Outcome.INCOMPLETE, reason, hint=hint)
    return Verdict("merge", "merge", (check,))


_NO_REPORTS: Mapping[str, Sequence[str]] = {}


@dataclass(frozen=True, slots=True)
class GateEnvironment:
    """Where gates work: report paths are relative to `root`; programs inherit `environ`.

    With `produce`, the commands that write reports are run first.
    """

    root: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    produce: bool = True


def run_gates(
    section: GatesSection,
    context: GateContext,
    place: GateEnvironment,
    *,
    names: Collection[str] = (),
    early: bool = False,
    reports: Mapping[str, Sequence[str]] = _NO_REPORTS,
) -> Verdicts:
    """The verdicts of all gates, or of those in `names`, or with `early` of those marked so.

    `reports` replaces the report files of a gate, by its name. Gates run side by side. What is
    wrong with a report is a verdict. Raises UsageError for a name that is no gate, ConfigError for
    waiver files that cannot be read, Cancelled.
    """
    chosen = _chosen(section, names, early)
    waivers = Waivers([*section.waivers, *read_waivers(section.waiver_files, place.root)], context)
    with TaskGroup() as group:
        tasks = [
            group.start(_run, section, one, waivers, place, reports.get(one[0])) for one in chosen
        ]
    verdicts = tuple(
        let_through(task.result(), rules.blocks_in or section.blocks_in, context.environment)
        for task, (_, _, rules) in zip(tasks, chosen, strict=True)
    )
    return Verdicts(
        verdicts,
        context.now,
        context.revision,
        _image_name(context),
        () if names or early else waivers.unused(verdicts),
    )


def _chosen(
    section: GatesSection, names: Collection[str], early: bool
) -> list[tuple[str, str, Gate]]:
    gates = [*section.gates()]
    known = [name for name, _, _ in gates]
    for name in names:
        if name not in known:
            hint = f"gates are {', '.join(known)}" if known else "no gate is configured"
            raise UsageError(f"there is no gate called {name!r}", hint=hint)
    return [
        (name, kind, rules)
        for name, kind, rules in gates
        if (not names or name in names) and (not early or rules.early)
    ]


def _run(
    section: GatesSection,
    gate: tuple[str, str, Gate],
    waivers: Waivers,
    place: GateEnvironment,
    reports: Sequence[str] | None,
) -> Verdict:
    name, kind, rules = gate
    warn_only = advisory(rules, section.on_incomplete)
    if rules.skip:
        return Verdict(name, kind, (skipped("gate", rules.skip),))
    if isinstance(rules, ReportGate):
        if reports is not None:
            rules = replace(rules, reports=tuple(reports), run=())
        rules = replace(rules, max_age=rules.max_age or section.max_age)
        return _from_reports(name, kind, rules, waivers, place, warn_only)
    if isinstance(rules, ImageGate):
        checks, measured = judge_image(rules, waivers.context, name)
    else:
        checks, measured = judge_command(
            rules, name, waivers.context, root=place.root, environ=place.environ
        )
    verdict = Verdict(name, kind, tuple(checks), measurements=measured, advisory=warn_only)
    return waivers.waive(verdict)


def _from_reports(
    name: str,
    kind: str,
    rules: ReportGate,
    waivers: Waivers,
    place: GateEnvironment,
    warn_only: bool,
) -> Verdict:
    trouble = _produce(rules, place) if rules.run and place.produce else None
    vex = rules.vex if isinstance(rules, VulnerabilitiesGate) else ()
    evidence = gather(rules.paths, place.root)
    verdict = judge(
        name,
        kind,
        rules,
        evidence,
        waivers,
        vex=gather(vex, place.root),
        advisory=warn_only,
    )
    return replace(verdict, checks=(trouble, *verdict.checks)) if trouble else verdict


def _produce(rules: ReportGate, place: GateEnvironment) -> Check | None:
    """Write the reports anew. Old ones are taken away first: tools that crash write none, and a
    status of theirs tells a crash from findings in every tool another way.
    """
    for file in files(rules.paths, place.root):
        file.unlink(missing_ok=True)
    ended = run_program(
        rules.run, root=place.root, environ=place.environ, timeout_s=rules.timeout.seconds
    )
    if not ended.problem:
        return None
    reason = f"{shown_command(rules.run)}: {ended.problem}"
    details = tuple(ended.errors.splitlines()[-10:])
    return Check("run", Outcome.ERROR, reason, details=details)


def _image_name(context: GateContext) -> str:
    if context.image is None:
        return ""
    return "@".join(filter(None, (context.repository, context.image.digest)))
