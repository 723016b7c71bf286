"""A step of the repository's action: inputs in, a build, outputs for later steps."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from shipline import __version__
from shipline.cli.build import command
from shipline.cli.config import FILE
from shipline.cli.failures import ProgramSettings
from shipline.cli.results import write_whole
from shipline.config import Config, load
from shipline.deliver.ci import (
    UNSUPPORTED_OPTIONS,
    CiSection,
    FileState,
    Invocation,
    Login,
    Pins,
    Signing,
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
from shipline.errors import ConfigError, StepFailed, UsageError
from shipline.git import Git, GitError, read_repository, web_address
from shipline.oci import Reference
from shipline.ship import Build, Pipeline


def run_action(settings: ProgramSettings, environ: Mapping[str, str]) -> None:
    """Build what the inputs ask for; write imageid, digest and metadata where the runner says.

    Secrets lie in files that only this user reads, until the build has ended.
    """
    with tempfile.TemporaryDirectory(prefix="shipline-", dir=environ.get("RUNNER_TEMP")) as place:
        scratch = Path(place)
        call = invocation(environ, scratch, lambda value: _keep(scratch, value))
        _announce(call, on_runner=environ.get("GITHUB_ACTIONS") == "true")
        status = command.main(
            list(call.arguments), "shipline build", standalone_mode=False, obj=settings
        )
        if status:
            raise StepFailed("the build did not succeed", status=status)
        if output := environ.get("GITHUB_OUTPUT"):
            _write_outputs(Path(output), call)


def _keep(scratch: Path, value: str) -> Path:
    handle, name = tempfile.mkstemp(prefix="secret-", dir=scratch)  # mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(value)
    return Path(name)


def _announce(call: Invocation, *, on_runner: bool) -> None:
    """Keep secrets out of the log, which only the runner can do; say what was left out."""
    if on_runner:
        for value in call.masked:
            for line in filter(None, value.splitlines()):
                click.echo(f"::add-mask::{line}")
    for warning in call.warnings:
        click.echo(f"::warning::{warning}" if on_runner else f"warning: {warning}", err=True)


def _write_outputs(output: Path, call: Invocation) -> None:
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
    """The workflow that the configuration asks for, and the directory of the project.

    Variables of the configuration stay unread: they are those of the job. Raises ConfigError.
    """
    config = load(path, cwd, Unread())
    if config.file is None:
        raise ConfigError("there is no shipline.yaml", hint="`shipline init` creates one")
    return _workflow(config, config.file.parent), config.file.parent


def _workflow(config: Config, root: Path) -> Workflow:
    pipeline, section = config.pipeline, config.ci or CiSection()
    if pipeline.image is None:
        raise ConfigError(
            "shipline.yaml does not say where the image goes",
            hint="add `image: registry.example/team/app`",
        )
    for image in (pipeline.image, *pipeline.copies):
        if with_variables(str(image), str) != str(image):
            raise ConfigError(
                f"{with_variables(str(image), '${{{}}}'.format)}: the registry is not known here",
                hint="write it out: a generated workflow names the registry it logs in to",
            )
    tests = {name: step for name, step in pipeline.commands.items() if not step.after_build}
    language = detect_project(root).language
    return Workflow(
        image=pipeline.image.name,
        shipline=own_requirement() or f"shipline=={__version__}",
        platforms=tuple(map(str, pipeline.build.platforms)) or ("linux/amd64",),
        tests=tuple(tests),
        reports=tuple(dict.fromkeys(path for step in tests.values() for path in step.report_paths)),
        build=tuple(_flags(pipeline.build)),
        context=pipeline.build.context,
        variables=tuple(_variables(pipeline.build)),
        logins=tuple(_logins((pipeline.image, *pipeline.copies), section)),
        signing=_signing(pipeline, section, root),
        without=tuple(_without(config)),
        toolchain=language.toolchain if language else None,
        section=section,
    )


def own_requirement(read: Callable[[str], str | None] | None = None) -> str:
    """What pip is asked for to install this very shipline elsewhere: the commit of the repository
    that it came from, or its version where it came from an index. Empty where nobody else can
    reach what it came from. `read` gives a file of the installation's metadata.

    Source: PEP 610 (direct_url.json).
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
    """The requirement for the commit that is out, where its remote has it."""
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
    yield "versions and tags by rules: the commit is the only tag"
    if config.gates is not None:
        yield f"gates: {', '.join(name for name, _, _ in config.gates.gates())}"
    if config.pipeline.sign is not None:
        yield "sign: nothing is signed"


def _signing(pipeline: Pipeline, section: CiSection, root: Path) -> Signing | None:
    sign = pipeline.sign
    if sign is None:
        return None
    if sign.key.startswith(_FROM_VARIABLE):
        return Signing(sign.key.removeprefix(_FROM_VARIABLE))
    file = os.path.relpath(root / sign.key, root)
    if file.startswith("..") or os.path.isabs(sign.key):
        raise ConfigError(
            f"sign.key: {sign.key} is outside of the project",
            hint="name env://COSIGN_PRIVATE_KEY, or a file of the project to write a secret to",
        )
    return Signing(section.key, file)


def _flags(build: Build) -> Iterator[str]:
    """The flags of `shipline build` for the section, besides platforms and outputs."""
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
    """The variables that the secrets of the build come from."""
    for text in build.secrets:
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        if name := fields.get("env"):
            yield name


def _logins(images: Iterable[Reference], section: CiSection) -> Iterator[Login]:
    """One login per registry; those of copies have variables with the registry's name."""
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
"""Where each kind of file is kept, and who writes it."""

_OUTPUT = click.option("-o", "--output", metavar="PATH", help="Write to this path instead.")
_STDOUT = click.option("--stdout", is_flag=True, help="Print the file, and write nothing.")
_FORCE = click.option("--force", is_flag=True, help="Replace a file that was written by hand.")


@click.group("ci")
def group() -> None:
    """Write the files of CI systems, and keep them up to date."""


@group.command("github")
@FILE
@click.option(
    "--style",
    type=click.Choice(["shipline", "buildx"]),
    default="shipline",
    show_default=True,
    help="buildx: the plain workflow with Docker's own actions.",
)
@_OUTPUT
@_STDOUT
@_FORCE
def github_command(
    path: Path | None, style: str, output: str | None, stdout: bool, force: bool
) -> None:
    """Write a workflow of GitHub Actions."""
    kind = "github" if style == "shipline" else f"github --style {style}"
    _write(kind, path, output, stdout=stdout, force=force)


@group.command("gitlab")
@FILE
@_OUTPUT
@_STDOUT
@_FORCE
def gitlab_command(path: Path | None, output: str | None, stdout: bool, force: bool) -> None:
    """Write a pipeline of GitLab CI."""
    _write("gitlab", path, output, stdout=stdout, force=force)


@group.command("check")
@FILE
@click.argument("files", nargs=-1, metavar="[FILE...]")
def check(path: Path | None, files: tuple[str, ...]) -> None:
    """Fail if a generated file is out of date; prints the difference."""
    stale = []
    for place, expected in _generated(path, files):
        state = freshness(_text(place), expected, os.path.relpath(place))
        if state.state is not FileState.FRESH:
            stale.append(os.path.relpath(place))
            click.echo(state.diff, nl=False)
        else:
            click.echo(f"{os.path.relpath(place)}: up to date", err=True)
    if stale:
        raise ConfigError(f"out of date: {', '.join(stale)}", hint="run `shipline ci update`")


@group.command("update")
@FILE
@click.option("--force", is_flag=True, help="Also files that were edited by hand.")
@click.argument("files", nargs=-1, metavar="[FILE...]")
def update(path: Path | None, force: bool, files: tuple[str, ...]) -> None:
    """Write the generated files again: with this configuration, and today's pins of actions."""
    for place, expected in _generated(path, files):
        _replace(place, expected, force=force)


@group.command("action-build", hidden=True)
@click.pass_obj
def action_build(settings: ProgramSettings) -> None:
    """Run by the action of this repository: `shipline build` with the inputs of a step."""

    run_action(settings, os.environ)


def _write(kind: str, path: Path | None, output: str | None, *, stdout: bool, force: bool) -> None:
    workflow, root = _ci_workflow(path)
    default, writer = _WRITERS[kind]
    text = writer(workflow, root)
    if stdout:
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
            " shipline was installed from files that they cannot reach. If the index does not have"
            " it, set ci.install in shipline.yaml: a git URL with a commit, or a wheel.",
            err=True,
        )


def _ci_workflow(path: Path | None) -> tuple[Workflow, Path]:
    content, root = workflow(path, Path.cwd())
    if _top(root) != root:
        raise UsageError(
            f"{os.path.relpath(root)} is not the top of the repository, where CI jobs begin",
            hint="keep shipline.yaml at the top, with build.context and build.file below",
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
        raise ConfigError(f"not generated by shipline: {', '.join(foreign)}")
    if not present:
        raise ConfigError(
            "there is no generated file", hint="run `shipline ci github` or `shipline ci gitlab`"
        )
    return present


def _replace(place: Path, text: str, *, force: bool) -> None:
    shown = os.path.relpath(place)
    state = freshness(_text(place), text, shown).state
    if state is FileState.FRESH:
        click.echo(f"{shown} is up to date", err=True)
        return
    if state in (FileState.FOREIGN, FileState.EDITED) and not force:
        whose = "was written" if state is FileState.FOREIGN else "has been changed"
        raise UsageError(f"{shown} {whose} by a person", hint="--force replaces it")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, text)
    click.echo(f"wrote {shown}", err=True)


def _text(place: Path) -> str | None:
    try:
        return place.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {place}: {error}") from error


def _top(root: Path) -> Path:
    """The top of the repository, where CI systems look; the project itself outside of one."""
    for directory in (root, *root.parents):
        if (directory / ".git").exists():
            return directory
    return root
