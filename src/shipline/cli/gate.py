"""`shipline gate`: judge reports and images, and say what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shipline.cli.gate_options import GateFlags, gate_options, unrecognized_verdict
from shipline.errors import ConfigError, GateUndecided, MissingFlag, UsageError
from shipline.gates import (
    SUMMARY_TYPE,
    Baseline,
    GateContext,
    GateEnvironment,
    GatesSection,
    ImageSubject,
    Verdict,
    Verdicts,
    image_facts,
    merge_verdict,
    render,
    run_gates,
)
from shipline.git import ChangedLines, Git, GitError, changed_lines, resolve
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.cli.signing import ImageAddress


_BASELINE_LIMIT = 64 << 20  # bytes


def revision_of(git: Git, flags: GateFlags) -> str:
    """The commit that reports must be about: the given one, else HEAD; empty if there is none."""
    if flags.hook == "pre-commit":
        return ""  # the commit is still to be made
    named = flags.revision
    try:
        return resolve(git, named or "HEAD") or named
    except GitError:
        return named


def changes_of(git: Git, flags: GateFlags) -> ChangedLines | None:
    """The changed lines: since the given base, or in a hook those of the commit or push."""
    if flags.hook == "pre-commit":
        return changed_lines(git, "HEAD", staged=True) if resolve(git, "HEAD") else None
    base = flags.base or flags.merge_check
    if flags.hook == "pre-push" and not base:
        base = next((name for name in ("@{push}", "@{upstream}") if resolve(git, name)), "")
    return changed_lines(git, base, flags.revision or "HEAD") if base else None


def newest_change(git: Git, flags: GateFlags, changes: ChangedLines | None) -> datetime | None:
    """The time of what is judged: of the commit, or in a hook of the newest changed file. Older
    reports cannot be about it. None without a commit.
    """
    if not flags.hook:
        return _committed(git, flags.revision or "HEAD")
    if changes is None:
        return None
    top = Path(git.text("rev-parse", "--show-toplevel"))
    times = [_modified(top / path) for path in changes.lines]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _committed(git: Git, name: str) -> datetime | None:
    try:
        commit = resolve(git, name)
    except GitError:
        return None
    if not commit:
        return None
    seconds = git.text("log", "-1", "--format=%ct", commit)
    return datetime.fromtimestamp(int(seconds), UTC)


def baseline_of(flags: GateFlags) -> Baseline | None:
    """The baseline from a file, or from the signed statement attached to an image. Raises
    GateUndecided if no trusted key signed one.
    """
    if flags.baseline is not None:
        return Baseline.parse(_read(flags.baseline))
    if not flags.baseline_image:
        return None
    from shipline.cli.signing import open_images, public_keys
    from shipline.supply import SignatureRefused, verify_attestations

    keys = public_keys(flags.baseline_keys)
    if not keys:
        raise UsageError(
            "--baseline-image requires a key to verify its statement",
            code="gate-baseline",
            hint="give --baseline-key",
        )
    with open_images([flags.baseline_image], plain=flags.allow_http_registry) as (place,):
        try:
            verified = verify_attestations(
                place.repository, place.target, place.reference, keys, SUMMARY_TYPE
            )
        except SignatureRefused as error:
            raise GateUndecided(
                f"there is no trusted baseline: {error.message}",
                code="gate-baseline",
                verdicts=error.verdicts,
                hint="attach one with `shipline gate --image NAME@DIGEST --attest --key KEY`",
            ) from error
    return Baseline.newest(item.statement.predicate for item in verified.proven)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_BASELINE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the baseline {path}: {error.strerror}", code="gate-baseline"
        ) from error
    if len(content) > _BASELINE_LIMIT:
        raise ConfigError(
            f"the baseline {path} is larger than {_BASELINE_LIMIT >> 20} MiB", code="gate-baseline"
        )
    return content


def _modified(path: Path) -> float:
    try:
        return os.stat(path, follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


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
def command(names: Sequence[str], flags: GateFlags) -> int:
    """Judge reports and an image by the quality gates; all of them, or GATE...

    The gates stand in shipline.yaml, or come from options alone:

      shipline gate --coverage coverage.xml --vulnerabilities trivy.json

    Exits with 0 where all is well, with 9 where a gate says no, and with 11 where none does but one
    cannot tell: a report is missing, empty, stale, or about something else.
    """
    root, section = _section(flags)
    git = Git(flags.directory, os.environ)
    options = flags.options(root, section)
    section, reports = options.apply_to(flags.apply_to(section))
    early = flags.early or bool(flags.hook)
    if early and not any(rules.early for _, _, rules in section.gates()):
        click.echo("no gate has `early: true`: there is nothing to check", err=True)
        return 0
    if not ([*section.gates()] or options.unrecognized or flags.merge_check):
        raise UsageError(
            "there is no gate to run",
            code="gate-none",
            hint="pass a report, as in --coverage FILE, or add `gates` to shipline.yaml",
        )
    with _image(flags) as place:
        context = _context(flags, git, place)
        verdicts = run_gates(
            section,
            context,
            GateEnvironment(root, _environment(), run_commands=flags.run),
            names=names,
            early=early,
            reports=reports,
        )
        verdicts = replace(verdicts, verdicts=(*_before(flags, git), *verdicts.verdicts))
        if options.unrecognized:
            more = unrecognized_verdict(options.unrecognized, root)
            verdicts = replace(verdicts, verdicts=(*verdicts.verdicts, more))
        _show(verdicts, flags)
        if flags.attest and place is not None:
            _attest(verdicts, flags, place)
    return verdicts.exit_code


def _section(flags: GateFlags) -> tuple[Path, GatesSection]:
    """The directory that report paths are relative to, and the gates of the project, if any."""
    from shipline.config import load

    config = load(flags.path, flags.directory, os.environ)
    if config.file is None or config.gates is None:
        return flags.directory.absolute(), GatesSection()
    return config.file.parent, config.gates


def _environment() -> dict[str, str]:
    """The environment without the variables that git sets for hooks: they would mislead git in
    programs of gates that run it in another directory.
    """
    return {key: value for key, value in os.environ.items() if key not in _OF_THE_HOOK}


def _context(flags: GateFlags, git: Git, place: ImageAddress | None) -> GateContext:
    changes = changes_of(git, flags)
    subject: ImageSubject | None = None
    if place is not None:
        subject = image_facts(place.repository, place.target)
    return GateContext(
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
def _image(flags: GateFlags) -> Iterator[ImageAddress | None]:
    if not flags.image:
        if flags.attest:
            raise MissingFlag("--attest: there is no image", hint="name it with --image")
        yield None
        return
    from shipline.cli.signing import open_images

    with open_images([flags.image], plain=flags.allow_http_registry) as places:
        yield places[0]


def _before(flags: GateFlags, git: Git) -> tuple[Verdict, ...]:
    return (merge_verdict(git, flags.merge_check),) if flags.merge_check else ()


def _show(verdicts: Verdicts, flags: GateFlags) -> None:
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


def _attest(verdicts: Verdicts, flags: GateFlags, place: ImageAddress) -> None:
    """Attach the verdicts to the digest, whatever they are."""
    from shipline.cli.signing import private_keys
    from shipline.gates import predicates
    from shipline.supply import attest, statement_about

    signers = private_keys(flags.keys, flags.password_file)
    for predicate in predicates(verdicts):
        statement = statement_about(
            place.target, place.reference, predicate.type, dict(predicate.content)
        )
        attest(place.repository, place.target, statement, signers, replace=True)
        click.echo(f"{place} attested: {predicate.type}", err=True)
