"""`shipline ci`: generate workflows for CI systems, check them, and run the action of this
repository.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from shipline import __version__
from shipline.cli.build import command
from shipline.cli.failures import ProgramSettings
from shipline.cli.options import CONFIGURATION
from shipline.cli.program import CommandGroup
from shipline.cli.results import write_whole
from shipline.config import Config, load
from shipline.deliver.ci import (
    UNSUPPORTED_OPTIONS,
    BuildCommand,
    CiSection,
    FileState,
    Login,
    Pins,
    SigningSecret,
    Unread,
    Workflow,
    buildx_workflow,
    freshness,
    github_workflow,
    gitlab_pipeline,
    invocation,
    kind_of,
    unsupported_options,
    with_variables,
)
from shipline.deliver.project import detect_project
from shipline.errors import ConfigError, FlagConflict, StepFailed, UsageError
from shipline.files import reading
from shipline.git import Git, GitError, read_repository, web_address
from shipline.oci import Reference
from shipline.ship import Build, Pipeline


def run_action(settings: ProgramSettings, environ: Mapping[str, str]) -> None:
    """Build according to the inputs of the action; write imageid, digest and metadata as outputs.

    Until the build has ended, secrets are in files that only this user can read.
    """
    with tempfile.TemporaryDirectory(prefix="shipline-", dir=environ.get("RUNNER_TEMP")) as place:
        scratch = Path(place)
        call = invocation(environ, scratch, lambda value: _keep(scratch, value))
        _announce(call, on_runner=environ.get("GITHUB_ACTIONS") == "true")
        status = command.main(
            list(call.arguments), "shipline build", standalone_mode=False, obj=settings
        )
        if status:
            raise StepFailed("the build failed", code="build-failed", status=status)
        if output := environ.get("GITHUB_OUTPUT"):
            _write_outputs(Path(output), call)


def _keep(scratch: Path, value: str) -> Path:
    handle, name = tempfile.mkstemp(prefix="secret-", dir=scratch)  # mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(value)
    return Path(name)


def _announce(call: BuildCommand, *, on_runner: bool) -> None:
    """Have the runner mask secrets in the log; print the warnings."""
    if on_runner:
        for value in call.masked:
            for line in filter(None, value.splitlines()):
                click.echo(f"::add-mask::{line}")
    for warning in call.warnings:
        click.echo(f"::warning::{warning}" if on_runner else f"warning: {warning}", err=True)


def _write_outputs(output: Path, call: BuildCommand) -> None:
    outputs = {}
    if call.iidfile is not None and call.iidfile.exists():
        outputs["imageid"] = call.iidfile.read_text().strip()
    if call.metadata_file.exists():
        text = call.metadata_file.read_text()
        outputs["digest"] = json.loads(text).get("containerimage.digest", "")
        outputs["metadata"] = text.strip()
    with output.open("a") as file:
        for name, value in outputs.items():
            mark = f"end_{secrets.token_hex(8)}"  # a value cannot end its own block
            file.write(f"{name}<<{mark}\n{value}\n{mark}\n")


_FROM_VARIABLE = "env://"


def workflow(path: Path | None, cwd: Path) -> tuple[Workflow, Path]:
    """The workflow for the configuration, and the directory of the project.

    `${NAME}` is not replaced: it is a variable of the job. Raises ConfigError.
    """
    config = load(path, cwd, Unread())
    if config.file is None:
        raise ConfigError(
            "there is no shipline.yaml", code="config-missing", hint="`shipline init` creates one"
        )
    return _workflow(config, config.file.parent), config.file.parent


def _workflow(config: Config, root: Path) -> Workflow:
    pipeline, section = config.pipeline, config.ci or CiSection()
    builds = pipeline.builds
    images = list(pipeline.images.values())
    regions = [place for one in pipeline.in_regions.values() for place in one.values()]
    copies = [copy for build in builds.values() for copy in build.copies]
    places = [*images, *copies, *regions]
    if not images:
        raise ConfigError(
            "shipline.yaml has no image",
            code="config-no-image",
            hint="add `image: registry.example/team/app`",
        )
    for image in places:
        if with_variables(str(image), str) != str(image):
            name = with_variables(str(image), "${{{}}}".format)
            raise ConfigError(
                f"{name}: the registry is unknown, because of a variable",
                hint="write the name without variables: the generated workflow logs in to it",
            )
    tests = {name: step for name, step in pipeline.commands.items() if not step.after_build}
    language = detect_project(root).language
    platforms = tuple(
        dict.fromkeys(str(one) for build in builds.values() for one in build.platforms)
    )
    return Workflow(
        image=images[0].name,
        shipline=own_requirement() or f"shipline=={__version__}",
        platforms=platforms or ("linux/amd64",),
        tests=tuple(tests),
        reports=tuple(dict.fromkeys(path for step in tests.values() for path in step.report_paths)),
        build=tuple(flag for build in builds.values() for flag in _flags(build)),
        context=pipeline.build.context,
        targets=tuple(pipeline.targets),
        variables=tuple(
            dict.fromkeys(name for build in builds.values() for name in _variables(build))
        ),
        logins=tuple(_logins(places, section)),
        registries=len({image.host for image in images}),
        signing=_signing(pipeline, section, root),
        without=tuple(_without(config)),
        toolchain=language.toolchain if language else None,
        environments=config.environments or {},
        section=section,
    )


def own_requirement(read: Callable[[str], str | None] | None = None) -> str:
    """The requirement with which pip installs this shipline elsewhere: a commit of its repository,
    or a version if it came from a package index. Empty if its source cannot be reached from
    elsewhere. `read` returns a file of the distribution's metadata (PEP 610, direct_url.json).
    """
    try:
        text = (read or distribution("shipline").read_text)("direct_url.json")
    except PackageNotFoundError:  # run from its source, and not installed
        return ""
    if text is None:
        return f"shipline=={__version__}"
    document = json.loads(text)
    url, vcs = document.get("url", ""), document.get("vcs_info")
    if vcs:
        return _at(url, vcs.get("commit_id", ""))
    checkout = Path(unquote(urlsplit(url).path))
    return _pushed(checkout) if "dir_info" in document and (checkout / ".git").exists() else ""


def _pushed(checkout: Path) -> str:
    """The requirement for the checked-out commit; empty unless its remote has it."""
    git = Git(checkout, os.environ)
    try:
        repository = read_repository(git)
        places = (
            "for-each-ref",
            f"--contains={repository.head}",
            f"refs/remotes/{repository.remote}/",
        )
        there = repository.head and repository.remote and any(git.lines(*places))
    except GitError:
        return ""
    return _at(repository.url, repository.head) if there else ""


def _at(url: str, commit: str) -> str:
    address = web_address(url)
    return f"git+{address}@{commit}" if address and commit else ""


def _without(config: Config) -> Iterator[str]:
    """Settings of shipline.yaml that only `shipline ship` supports."""
    yield "versions and tags by rules: images are only tagged with the commit"
    if config.gates is not None:
        yield f"gates: {', '.join(name for name, _, _ in config.gates.gates())}"
    if config.pipeline.sign is not None:
        yield "sign: nothing is signed"
    if config.environments:
        yield f"environments: nothing is deployed to {', '.join(config.environments)}"


def _signing(pipeline: Pipeline, section: CiSection, root: Path) -> SigningSecret | None:
    sign = pipeline.sign
    if sign is None:
        return None
    if sign.key.startswith(_FROM_VARIABLE):
        return SigningSecret(sign.key.removeprefix(_FROM_VARIABLE))
    file = os.path.relpath(root / sign.key, root)
    if file.startswith("..") or os.path.isabs(sign.key):
        raise ConfigError(
            f"sign.key: {sign.key} is outside the project",
            hint="use env://COSIGN_PRIVATE_KEY, or a file in the project, which CI then writes",
        )
    return SigningSecret(section.key, file)


def _flags(build: Build) -> Iterator[str]:
    """The flags of `shipline build` for the section, except platforms and outputs."""
    for flag, value in (("--file", build.file), ("--target", build.target)):
        if value:
            yield from (flag, value)
    yield from _pairs("--build-arg", build.args)
    yield from _pairs("--label", build.labels)
    yield from _pairs("--build-context", build.contexts)
    for flag, values in (
        ("--secret", build.secrets),
        ("--ssh", build.ssh),
        ("--cache-from", build.cache_from),
        ("--cache-to", build.cache_to),
    ):
        yield from (word for value in values for word in (flag, value))
    yield from (("--pull",) if build.pull else ())
    yield from (("--no-cache",) if build.no_cache else ())


def _pairs(flag: str, values: Mapping[str, str]) -> Iterable[str]:
    return (word for name, value in values.items() for word in (flag, f"{name}={value}"))


def _variables(build: Build) -> Iterator[str]:
    """The variables with the secrets of the build."""
    for text in build.secrets:
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        if name := fields.get("env"):
            yield name


def _logins(images: Iterable[Reference], section: CiSection) -> Iterator[Login]:
    """One login per registry; those of copies use variables named after the registry."""
    hosts = list(dict.fromkeys(image.host for image in images))
    for number, host in enumerate(hosts):
        prefix = re.sub(r"\W", "_", host).upper()
        own = (section.username, section.password)
        yield Login(host, *(own if not number else (f"{prefix}_USERNAME", f"{prefix}_PASSWORD")))


Writer = Callable[[Workflow, Path], str]


def _pins(workflow: Workflow, root: Path) -> Pins:
    return Pins.load(root / workflow.section.pins if workflow.section.pins else None)


_WRITERS: dict[str, tuple[str, Writer]] = {
    "github": (
        ".github/workflows/shipline.yml",
        lambda workflow, root: github_workflow(workflow, _pins(workflow, root)),
    ),
    "github --style buildx": (
        ".github/workflows/docker.yml",
        lambda workflow, root: buildx_workflow(workflow, _pins(workflow, root)),
    ),
    "gitlab": (".gitlab-ci.yml", lambda workflow, _: gitlab_pipeline(workflow)),
}
"""The path of each kind of file, and the function that generates it."""

_OUTPUT = click.option(
    "-o", "--output", metavar="PATH", help="Write to this path instead; - prints it."
)
_STDOUT = click.option("--stdout", is_flag=True, help="Print the file instead of writing it.")
_FORCE = click.option(
    "--force", is_flag=True, help="Also replace a file that was written or changed by hand."
)


@click.group("ci", cls=CommandGroup)
def group() -> None:
    """Generate workflows for CI systems, and keep them up to date."""


@group.command("github")
@CONFIGURATION
@click.option(
    "--style",
    type=click.Choice(["shipline", "buildx"]),
    default="shipline",
    show_default=True,
    help="buildx: a workflow with Docker's own actions, without shipline.",
)
@_OUTPUT
@_STDOUT
@_FORCE
def github_command(
    path: Path | None, style: str, output: str | None, stdout: bool, force: bool
) -> None:
    """Generate a GitHub Actions workflow: .github/workflows/shipline.yml."""
    kind = "github" if style == "shipline" else f"github --style {style}"
    _write(kind, path, output, stdout=stdout, force=force)


@group.command("gitlab")
@CONFIGURATION
@_OUTPUT
@_STDOUT
@_FORCE
def gitlab_command(path: Path | None, output: str | None, stdout: bool, force: bool) -> None:
    """Generate a GitLab CI pipeline: .gitlab-ci.yml."""
    _write("gitlab", path, output, stdout=stdout, force=force)


@group.command("check")
@CONFIGURATION
@click.argument("files", nargs=-1, metavar="[FILE...]")
def check(path: Path | None, files: tuple[str, ...]) -> None:
    """Check that the generated files are up to date.

    Prints a diff and exits with 3 if one is not.
    """
    stale = []
    for place, expected in _generated(path, files):
        state = freshness(_text(place), expected, os.path.relpath(place))
        if state.state is not FileState.FRESH:
            stale.append(os.path.relpath(place))
            click.echo(state.diff, nl=False)
        else:
            click.echo(f"{os.path.relpath(place)}: up to date", err=True)
    if stale:
        raise ConfigError(
            f"out of date: {', '.join(stale)}",
            code="ci-files-outdated",
            hint="run `shipline ci update`",
        )


@group.command("update")
@CONFIGURATION
@click.option("--force", is_flag=True, help="Also replace files that were changed by hand.")
@click.argument("files", nargs=-1, metavar="[FILE...]")
def update(path: Path | None, force: bool, files: tuple[str, ...]) -> None:
    """Regenerate the files, with the current configuration and pins of actions."""
    for place, expected in _generated(path, files):
        _replace(place, expected, force=force)


@group.command("code-quality")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("gl-code-quality-report.json"),
    show_default=True,
    metavar="PATH",
    help="Write to this path.",
)
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
def code_quality(output: Path, reports: tuple[str, ...]) -> None:
    """Write the findings of linters as a code quality report of GitLab.

    REPORT is a PATH or FORMAT:PATH in SARIF or ESLint's JSON, as of the `analysis` gate; globs are
    allowed. Findings that are suppressed in the source are left out. Nothing is written if a report
    is missing or not complete: GitLab would show its findings as fixed.
    """
    from shipline.gates import as_code_quality, read_reports
    from shipline.gates.reports import Findings, ReportError

    found = []
    for file in {file.path: file for file in read_reports(reports, Path.cwd())}.values():
        if file.report is None:
            raise ReportError(file.problem, hint=file.hint)
        if not isinstance(file.report.content, Findings):
            raise ReportError(f"{file.path}: {file.report.format} is no report of findings")
        for gap in file.report.gaps:
            raise ReportError(f"{file.path} is not complete: {gap}")
        found += [
            one
            for one in file.report.content.findings
            if not one.suppressed and one.state != "absent"
        ]
    entries = as_code_quality(found)
    write_whole(output, json.dumps(entries, indent=2) + "\n")
    if outside := len(found) - len(entries):
        click.echo(f"warning: left out {outside} not in a file of the repository", err=True)


@group.command("action-build", hidden=True)
@click.pass_obj
def action_build(settings: ProgramSettings) -> None:
    """`shipline build` with the inputs of the action of this repository."""
    run_action(settings, os.environ)


def _write(kind: str, path: Path | None, output: str | None, *, stdout: bool, force: bool) -> None:
    workflow, root = _ci_workflow(path)
    if workflow.targets and kind.endswith("buildx"):
        raise FlagConflict(
            "--style: Docker's action builds one image, and shipline.yaml has targets",
            hint="leave --style out: `shipline ship` builds them all",
        )
    default, writer = _WRITERS[kind]
    text = writer(workflow, root)
    if stdout or output == "-":
        sys.stdout.write(text)
        return
    place = Path(output) if output else _top(root) / default
    _replace(place, text, force=force)
    _warn(workflow, kind)


def _warn(workflow: Workflow, kind: str) -> None:
    """Warn about unsupported settings and missing files before CI runs."""
    if kind.endswith("buildx"):
        click.echo(UNSUPPORTED_OPTIONS, err=True)
        for option in unsupported_options(workflow):
            click.echo(f"- {option}", err=True)
    elif not workflow.section.install and not own_requirement():
        click.echo(
            f"warning: the jobs install {workflow.install} from their package index, because this"
            " shipline was installed from files that they cannot reach. No public index has it, and"
            " whoever took the name there would run in these jobs: set ci.install in shipline.yaml"
            " to a git URL with a commit, or to a wheel, unless the index is yours.",
            err=True,
        )


def _ci_workflow(path: Path | None) -> tuple[Workflow, Path]:
    content, root = workflow(path, Path.cwd())
    if _top(root) != root:
        raise UsageError(
            f"{os.path.relpath(root)} is not the top of the repository, where CI jobs start",
            code="repository-top",
            hint="move shipline.yaml to the top; build.context and build.file can be below",
        )
    return content, root


def _generated(path: Path | None, files: tuple[str, ...]) -> list[tuple[Path, str]]:
    """The generated files with their expected content. Raises ConfigError if there are none."""
    workflow, root = _ci_workflow(path)
    places = [Path(file) for file in files] or [_top(root) / path for path, _ in _WRITERS.values()]
    kinds = [(place, kind_of(_text(place) or "")) for place in places]
    present = [
        (place, _WRITERS[kind][1](workflow, root)) for place, kind in kinds if kind in _WRITERS
    ]
    foreign = [str(place) for place, kind in kinds if kind not in _WRITERS]
    if foreign and files:
        raise ConfigError(
            f"not generated by shipline: {', '.join(foreign)}", code="ci-files-outdated"
        )
    if not present:
        raise ConfigError(
            "there are no generated files",
            code="ci-files-outdated",
            hint="run `shipline ci github` or `shipline ci gitlab`",
        )
    return present


def _replace(place: Path, text: str, *, force: bool) -> None:
    shown = os.path.relpath(place)
    state = freshness(_text(place), text, shown).state
    if state is FileState.FRESH:
        click.echo(f"{shown} is up to date", err=True)
        return
    if state in (FileState.FOREIGN, FileState.EDITED) and not force:
        how = "was written" if state is FileState.FOREIGN else "has been changed"
        raise UsageError(
            f"{shown} {how} by hand", code="ci-file-edited", hint="--force replaces it"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, text)
    click.echo(f"wrote {shown}", err=True)


def _text(place: Path) -> str | None:
    with reading(place), suppress(FileNotFoundError):
        return place.read_text()
    return None


def _top(root: Path) -> Path:
    """The top of the repository, where CI systems look; the project itself outside a repository."""
    for directory in (root, *root.parents):
        if (directory / ".git").exists():
            return directory
    return root
