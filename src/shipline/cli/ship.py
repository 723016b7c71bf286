"""`shipline ship`: the whole pipeline, from this commit to a signed image with tags."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.commit import CommitQuery, commit_options
from shipline.cli.environment import registry_options, use_mirrors
from shipline.cli.failures import INTERRUPTED, ProgramSettings, failure_annotations, message_width
from shipline.cli.interrupts import run_in_step
from shipline.cli.observing import observed
from shipline.cli.options import BUILDER, PROGRESS
from shipline.cli.signing import password_option
from shipline.errors import Cancelled, ConfigError, InvalidFlag, ShiplineError, UsageError

if TYPE_CHECKING:
    from shipline.events import Attribute, Sink
    from shipline.registry import Client
    from shipline.ship.plan import Environment, Plan, ProjectConfig, Selection
    from shipline.ship.record import RunRecord


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line, except those of the commit."""

    only: tuple[str, ...]
    skip: tuple[str, ...]
    until: str | None
    resume: str | None
    built: tuple[Path, ...]
    platforms: tuple[str, ...]
    builder: str | None
    allow_dirty: bool
    keep_going: bool
    progress: str
    password_file: Path | None
    summary: Path | None
    metadata_file: Path | None


def _words(
    context: click.Context, parameter: click.Parameter, texts: Sequence[str]
) -> tuple[str, ...]:
    """The values of an option that may be repeated, and separated by commas."""
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


@click.command("ship")
@commit_options
@click.option(
    "--plan", "show", is_flag=True, help="Show every step and tag without running anything."
)
@click.option("--json", "as_json", is_flag=True, help="The plan, or the record, as JSON.")
@click.option(
    "--only",
    multiple=True,
    callback=_words,
    metavar="STEP,..",
    help="Run these steps and no others.",
)
@click.option("--skip", multiple=True, callback=_words, metavar="STEP,..", help="Skip these steps.")
@click.option(
    "--until", metavar="ENV", help="End with this environment; `publish` deploys to none."
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value="latest",
    metavar="[RUN]",
    help="Continue a run that did not finish; by default the latest of this project.",
)
@click.option(
    "--built",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Metadata of an image built elsewhere; all are merged instead of building.",
)
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    callback=_words,
    metavar="OS/ARCH",
    help="Build only for these platforms.",
)
@BUILDER
@click.option(
    "--metadata-file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the metadata of the image to this file, for --built.",
)
@click.option(
    "--allow-dirty", is_flag=True, help="Ship uncommitted changes, without version and signature."
)
@click.option(
    "-k",
    "--keep-going",
    is_flag=True,
    help="Continue with steps that do not depend on a failed one.",
)
@password_option
@registry_options
@click.option(
    "--summary",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Append a summary in Markdown to this file.",
)
@PROGRESS
@click.pass_obj
def command(
    settings: ProgramSettings, /, query: CommitQuery, show: bool, as_json: bool, **given: Any
) -> int:
    """Run the pipeline in shipline.yaml: lint, test, build, scan, judge, sign, copy, tag, deploy.

    Nothing is tagged until all gates have passed; then the image goes from environment to
    environment, as far as each lets it. Prints the tags and the digest of the image.
    """
    from shipline.ship.preparation import prepare
    from shipline.ship.render import plan_text
    from shipline.ship.runs import Runs

    options = Options(**given)
    with _opened(query, options) as (project, environment):
        resume = None
        if options.resume is not None and not show:
            resume = Runs(environment.home).resolve(options.resume, str(project.root))
        plan = prepare(
            project,
            environment,
            _selection(project, options),
            allow_dirty=options.allow_dirty,
            plan_only=show,
            fetch=query.fetch or not show,
            ignore=[*options.built, *filter(None, [options.metadata_file])],
        )
        if show:
            click.echo(json.dumps(plan.to_json(), indent=2) if as_json else plan_text(plan))
            return 0
        return _ship(plan, environment, options, settings, resume=resume, as_json=as_json)


@contextmanager
def _opened(query: CommitQuery, options: Options) -> Iterator[tuple[ProjectConfig, Environment]]:
    """The project, and its environment with an open registry client."""
    from shipline.api import open_client

    project = _project(query, options)
    assert query.config is not None  # a project has one
    use_mirrors(query.config.registry_mirrors)
    with open_client() as client:
        yield project, _environment(query, client, options)


def _project(query: CommitQuery, options: Options) -> ProjectConfig:
    from shipline.build import parse_platforms
    from shipline.ship.plan import ProjectConfig
    from shipline.tags import TagsSection

    config = query.config
    if config is None or config.file is None:
        raise ConfigError(
            "there is no shipline.yaml", code="config-missing", hint="`shipline init` creates one"
        )
    pipeline = config.pipeline
    if options.platforms:
        pipeline = pipeline.only_for(parse_platforms(options.platforms))
    tags = config.tags or TagsSection()
    return ProjectConfig(
        root=config.file.parent,
        file=config.file.name,
        pipeline=pipeline,
        tags=tags,
        gates=config.gates,
        environments=config.environments or {},
    )


def _environment(query: CommitQuery, client: Client, options: Options) -> Environment:
    from shipline.cli.deploy import delivery_of
    from shipline.cli.signing import private_keys
    from shipline.home import state_directory
    from shipline.ship.plan import Environment

    config = query.config
    return Environment(
        delivery=delivery_of(query, config, client) if config and config.environments else None,
        home=state_directory(),
        environ=os.environ,
        event=query.event,
        repositories=lambda reference: client.repository(reference).unmirrored,
        signers=lambda place: private_keys([place], options.password_file),
    )


def _selection(project: ProjectConfig, options: Options) -> Selection:
    from shipline.ship.plan import Selection
    from shipline.ship.steps.build import read_built

    images = project.pipeline.images
    if options.built and not images:
        raise UsageError("--built: shipline.yaml names no image", code="config-no-image")
    built = read_built(options.built, images)
    if options.until == "":
        raise InvalidFlag("--until is empty", hint="name an environment, or leave it out")
    only, skip = frozenset(options.only), frozenset(options.skip)
    return Selection(only, skip, built, options.until or "")


def _ship(
    plan: Plan,
    environment: Environment,
    options: Options,
    settings: ProgramSettings,
    *,
    resume: str | None,
    as_json: bool,
) -> int:
    from shipline.builders.instances import other_builder
    from shipline.cli.engine import builder
    from shipline.cli.results import REPORTED
    from shipline.observe import open_sinks
    from shipline.ship.render import report
    from shipline.ship.runner import resumed, ship
    from shipline.ship.runs import Runs, StepLogs

    settings.json_lines, settings.repeated = options.progress == "rawjson", True
    section = plan.inputs.pipeline.builder
    started: list[str] = []
    if resume is not None:
        resumed(Runs(environment.home), resume, plan)
    failure: ShiplineError | Cancelled | None = None
    sinks: list[Sink] = [*open_sinks(options.progress, sys.stderr, os.environ), StepLogs()]
    try:
        with observed(
            "ship", _image(plan), sinks=sinks, facts=_facts(plan), run=resume or ""
        ) as run:
            record = run_in_step(
                lambda: ship(
                    plan,
                    environment,
                    builder(run.stream, other_builder(options.builder or section, os.environ)),
                    run.step,
                    run_id=run.run,
                    resume=resume,
                    keep_going=options.keep_going,
                    on_start=started.append,
                ),
                run.step,
            )
            run.step.note(**_ended(record))
    except (ShiplineError, Cancelled) as error:
        if settings.debug or not started:
            raise
        failure = error
    record = Runs(environment.home).read(started[0])
    _write_files(record, options)
    if failure is None or as_json:
        if options.progress in REPORTED and not as_json:
            click.echo("\n".join(report(record, plan)), err=True)
        _show(record, as_json=as_json)
    if failure is not None and settings.json_lines:
        raise failure
    return (
        record.exit_code if failure is None else _explain(failure, record, plan, settings.again())
    )


def _image(plan: Plan) -> str:
    """The name of the run: its image, or its images."""
    pipeline = plan.inputs.pipeline
    names = [str(image) for image in pipeline.images.values()]
    return ", ".join(names or filter(None, [str(pipeline.image or "")]))


def _facts(plan: Plan) -> Mapping[str, Attribute]:
    inputs = plan.inputs
    return {
        "root": str(inputs.project.root),
        "commit": inputs.work_tree.commit,
        "branch": inputs.branch,
        "dirty": inputs.work_tree.dirty,
    }


def _ended(run: RunRecord) -> Mapping[str, Attribute]:
    """What the history says of a run that came to its end."""
    from shipline.ship.steps.build import digest_of
    from shipline.ship.steps.publish import names_of

    return {"outcome": run.state.value, "names": " ".join(names_of(run)), "digest": digest_of(run)}


def _explain(failure: ShiplineError | Cancelled, run: RunRecord, plan: Plan, again: str) -> int:
    """Print the box at the end of a failed run; returns the exit status."""
    from shipline.observe import boxed, can_encode
    from shipline.ship.render import failure_sections

    if isinstance(failure, Cancelled):
        click.echo(f"interrupted; continue with: shipline ship --resume {run.id}", err=True)
        return INTERRUPTED
    for line in failure_annotations(failure):
        click.echo(line, err=True)
    width = message_width()
    sections = failure_sections(failure, run, plan.inputs.pipeline, again)
    title = f"shipping {plan.inputs.work_tree.short} failed"
    click.echo(boxed(title, sections, unicode=can_encode(sys.stderr), width=width), err=True)
    return failure.exit_code


def _show(run: RunRecord, *, as_json: bool) -> None:
    """Print the record, or the names of the image, else its digest."""
    if as_json:
        click.echo(json.dumps(run.to_json(), indent=2))
        return
    from shipline.ship.plan import UNGATED, UNGATED_HINT
    from shipline.ship.render import pending, ungated
    from shipline.ship.steps.build import shown_images
    from shipline.ship.steps.deploy import deployments_of
    from shipline.ship.steps.publish import tagged_images

    for line in tagged_images(run) or shown_images(run):
        click.echo(line)
    for deployed in deployments_of(run):
        click.echo(str(deployed), err=True)
    if waiting := [step.name for step in pending(run)]:
        names = ", ".join(waiting)
        click.echo(f"warning: pending: {names}; shipline ship --resume {run.id}", err=True)
    if ungated(run):
        click.echo(f"warning: {UNGATED}; {UNGATED_HINT}", err=True)


def _write_files(run: RunRecord, options: Options) -> None:
    """Write the files for other programs: metadata, summary, outputs of the CI job."""
    from shipline.cli.results import append, append_summary, job_summary, write_whole
    from shipline.ship.record import by_target
    from shipline.ship.render import outputs, summary
    from shipline.ship.steps.build import pushed_images

    facts = {
        name: {
            "containerimage.descriptor": image.descriptor.to_json(),
            "containerimage.digest": str(image.digest),
            "image.name": run.repositories[name],
        }
        for name, image in pushed_images(run).items()
    }
    if options.metadata_file is not None and facts:
        write_whole(options.metadata_file, json.dumps(by_target(facts), indent=2) + "\n")
    for place in (options.summary, job_summary(os.environ)):
        if place:
            append_summary(place, summary(run))
    if (place := os.environ.get("GITHUB_OUTPUT")) and os.environ.get("GITHUB_ACTIONS") == "true":
        append(place, "".join(f"{key}={value}\n" for key, value in outputs(run).items()))
