"""`shipline gate`: judge reports and images, and say what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shipline.cli.gateoptions import Flags, gate_options
from shipline.cli.gatesources import baseline_of, changes_of, newest_change, revision_of
from shipline.errors import UsageError
from shipline.git import Git
from shipline.policy.gates import (
    Context,
    GatesSection,
    ImageSubject,
    Verdict,
    Verdicts,
    Workplace,
    image_facts,
    merge_verdict,
    render,
    run_gates,
)
from shipline.policy.gates.asking import unclear_verdict

if TYPE_CHECKING:
    from shipline.cli.signing import Place

_SUMMARY = "GITHUB_STEP_SUMMARY"
_OF_THE_HOOK = frozenset((  # git rev-parse --local-env-vars
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH", "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
))  # fmt: skip


@click.command("gate")
@click.argument("names", nargs=-1, metavar="[GATE...]")
@gate_options
def command(names: Sequence[str], flags: Flags) -> int:
    """Judge reports and an image by the quality gates; all of them, or GATE...

    The gates stand in shipline.yaml, or come from options alone:

      shipline gate --coverage coverage.xml --vulnerabilities trivy.json

    Exits with 0 where all is well, with 9 where a gate says no, and with 11 where none does but one
    cannot tell: a report is missing, empty, stale, or about something else.
    """
    root, section = _section(flags)
    git = Git(flags.directory, os.environ)
    asked = flags.asked(root, section)
    section, reports = asked.laid_over(flags.laid_over(section))
    early = flags.early or bool(flags.hook)
    if early and not any(rules.early for _, _, rules in section.gates()):
        click.echo("no gate is marked early: there is nothing to check here", err=True)
        return 0
    if not [*section.gates()] and not asked.unclear:
        raise UsageError(
            "there is no gate to judge by",
            hint="name a report, as in --coverage FILE, or write the section `gates`",
        )
    with _image(flags) as place:
        context = _context(flags, git, place)
        verdicts = run_gates(
            section,
            context,
            Workplace(root, _environment(), produce=flags.run),
            names=names,
            early=early,
            reports=reports,
        )
        verdicts = replace(verdicts, verdicts=(*_before(flags, git), *verdicts.verdicts))
        if asked.unclear:
            more = unclear_verdict(asked.unclear, root)
            verdicts = replace(verdicts, verdicts=(*verdicts.verdicts, more))
        _show(verdicts, flags)
        if flags.attest and place is not None:
            _attest(verdicts, flags, place)
    return verdicts.exit_code


def _section(flags: Flags) -> tuple[Path, GatesSection]:
    """Where report paths begin, and the gates of the project, if it has any."""
    from shipline.config import load

    config = load(flags.path, flags.directory, os.environ)
    if config.file is None or config.gates is None:
        return flags.directory.absolute(), GatesSection()
    return config.file.parent, config.gates


def _environment() -> dict[str, str]:
    """Without what git tells a hook of where it is: it would mislead every git that the program of
    a gate runs in another place.
    """
    return {key: value for key, value in os.environ.items() if key not in _OF_THE_HOOK}


def _context(flags: Flags, git: Git, place: Place | None) -> Context:
    changes = changes_of(git, flags)
    subject: ImageSubject | None = None
    if place is not None:
        subject = image_facts(place.repository, place.target)
    return Context(
        flags.now or datetime.now(UTC),
        revision_of(git, flags),
        subject,
        place.reference.name if place else "",
        flags.environment,
        changes,
        baseline_of(flags),
        newest_change(git, flags, changes),
    )


@contextmanager
def _image(flags: Flags) -> Iterator[Place | None]:
    if not flags.image:
        if flags.attest:
            raise UsageError("--attest: there is no image", hint="name it with --image")
        yield None
        return
    from shipline.cli.signing import open_images

    with open_images([flags.image], plain=flags.allow_http_registry) as places:
        yield places[0]


def _before(flags: Flags, git: Git) -> tuple[Verdict, ...]:
    return (merge_verdict(git, flags.merge_check),) if flags.merge_check else ()


def _show(verdicts: Verdicts, flags: Flags) -> None:
    text = render(verdicts, flags.form)
    if flags.form == "github":
        click.echo(render(verdicts, "text"), err=True)
    if flags.output is not None:
        flags.output.write_text(text + "\n", encoding="utf-8")
        text = render(verdicts, "text")
    if text:
        click.echo(text)
    summary = flags.summary or (os.environ.get(_SUMMARY) if flags.form == "github" else None)
    if summary:
        with open(summary, "a", encoding="utf-8") as file:
            file.write(render(verdicts, "markdown") + "\n")


def _attest(verdicts: Verdicts, flags: Flags, place: Place) -> None:
    """Attach what was judged to the digest, whatever the outcome: a refusal is a fact too."""
    from shipline.cli.signing import private_keys
    from shipline.policy.gates import predicates
    from shipline.supply import attest, statement_about

    signers = private_keys(flags.keys, flags.password_file)
    for one in predicates(verdicts):
        statement = statement_about(place.target, place.reference, one.type, dict(one.content))
        attest(place.repository, place.target, statement, signers, replace=True)
        click.echo(f"{place} attested: {one.type}", err=True)
