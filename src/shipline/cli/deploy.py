"""`shipline deploy`: set images in the GitOps repository of an environment."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.commit import CommitQuery, commit_options, expected_decision
from shipline.cli.environment import registry_options
from shipline.errors import ConfigError, InvalidFlag, NotFound
from shipline.oci import Reference

if TYPE_CHECKING:
    from shipline.config import Config
    from shipline.deliver.delivery import Delivery
    from shipline.deliver.environments import EnvironmentSection
    from shipline.deliver.gitops import Deployed, Deployment
    from shipline.registry import Client
    from shipline.ship.record import RunRecord


@click.command("deploy")
@click.argument("images", nargs=-1, metavar="[IMAGE...]")
@click.option("-e", "--env", "environment", required=True, metavar="NAME", help="The environment.")
@click.option("--dry-run", is_flag=True, help="Show the change, and push nothing.")
@click.option(
    "--allow-older", is_flag=True, help="Deploy also what is older than what is deployed."
)
@click.option(
    "--emergency",
    default="",
    metavar="REASON",
    help="Deploy what the rules of the environment do not allow; holds and stops count. The commit"
    " has the reason and the rules.",
)
@click.option(
    "--replace-image", is_flag=True, help="Also where the file has an image of another repository."
)
@click.option("--wait", is_flag=True, help="Wait until it runs and is healthy, then check it.")
@click.option("--no-checks", is_flag=True, help="With --wait: do not run the checks.")
@click.option("--json", "as_json", is_flag=True, help="Print the deployment as JSON.")
@commit_options
@registry_options
def command(
    query: CommitQuery,
    images: Sequence[str],
    environment: str,
    dry_run: bool,
    allow_older: bool,
    emergency: str,
    replace_image: bool,
    wait: bool,
    no_checks: bool,
    as_json: bool,
) -> None:
    """Set IMAGE... by digest in the GitOps repository of an environment, commit and push, if its
    policy allows it, as `shipline promote` does.

    Without IMAGE, that of the last run of `shipline ship` for this commit, else the one that the
    registry has under a tag of this commit. With several targets, write TARGET=IMAGE. Prints the
    commit, or the address of the pull request. Exits with 9 if the policy refuses it, and with 16
    if it must wait; with --wait, as `shipline check`.
    """
    from shipline.api import open_client
    from shipline.cli.observing import observed
    from shipline.deliver.promotion import PromotionRequest, promote

    config, section = configured(query, environment)
    with observed("deploy", environment) as run, open_client() as client:
        delivery = delivery_of(query, config, client)
        delivery, found, deployment = chosen_deployment(
            query, config, delivery, environment, images
        )
        request = PromotionRequest(
            environment=environment,
            chosen=deployment,
            images=found,
            allow_older=allow_older,
            emergency=" ".join(emergency.split()),
            replace_image=replace_image,
            again=True,
        )
        done = promote(delivery, request, dry_run=dry_run, on_race=tell_race)
        run.step.note(
            names=" ".join(map(str, done.deployment.images)), commit=done.deployment.commit
        )
        show_deployed(done, dry_run=dry_run, as_json=as_json)
        if wait and not dry_run:
            from shipline.cli.check import show_verified, verified

            result = verified(delivery, config, section, done.deployment, checks=not no_checks)
            result.require()
            show_verified(result)


def configured(query: CommitQuery, name: str) -> tuple[Config, EnvironmentSection]:
    """The configuration, and the section of an environment. Raises ConfigError, UsageError."""
    from shipline.deliver.environments import named_environment

    config = required_config(query)
    return config, named_environment(config.environments or {}, name)


def required_config(query: CommitQuery) -> Config:
    """The configuration. Raises ConfigError if there is no file."""
    if query.config is None:
        raise ConfigError(
            "there is no shipline.yaml", code="config-missing", hint="`shipline init` creates one"
        )
    return query.config


@dataclass(frozen=True, slots=True)
class ChosenImages:
    """Images by target, and the run that made them, if it is known."""

    images: Mapping[str, Reference]
    run: RunRecord | None = None


def delivery_of(query: CommitQuery, config: Config, client: Client) -> Delivery:
    """The delivery of the project of a configuration."""
    from shipline.config.project import project_delivery
    from shipline.home import state_directory

    return project_delivery(
        config, query.git, client, home=state_directory(), environ=os.environ, fetch=query.fetch
    )


def images_of(
    query: CommitQuery, config: Config, delivery: Delivery, words: Sequence[str]
) -> Mapping[str, Reference]:
    """The images by target: those of the command line, else those of this commit."""
    return _chosen(query, config, delivery, words).images


def _chosen(
    query: CommitQuery, config: Config, delivery: Delivery, words: Sequence[str]
) -> ChosenImages:
    return named_images(words, config) if words else images_of_commit(query, config, delivery)


def chosen_deployment(
    query: CommitQuery, config: Config, delivery: Delivery, name: str, words: Sequence[str]
) -> tuple[Delivery, Mapping[str, Reference], Deployment]:
    """The delivery, with the name of the first image if shipline.yaml names none, the trusted
    images by target, and what is known of them.
    """
    from shipline.ship.steps.deploy import of_run
    from shipline.values import replace

    source = _chosen(query, config, delivery, words)
    if not (delivery.image or delivery.targets):
        delivery = replace(delivery, image=next(iter(source.images.values())))
    trusted = delivery.trusted(source.images)
    deployment = delivery.deployment(name, trusted)
    if source.run:
        deployment = of_run(source.run, deployment)
    return delivery, trusted.images, deployment


def named_images(words: Sequence[str], config: Config) -> ChosenImages:
    """The images of the command line."""
    targets = config.pipeline.targets
    images: dict[str, Reference] = {}
    for word in words:
        target, equals, name = word.partition("=")
        if not targets and (equals or images):
            raise InvalidFlag("shipline.yaml has one image: write one IMAGE")
        if targets and target not in targets:
            raise InvalidFlag(f"write TARGET=IMAGE, with a target of {', '.join(targets)}")
        images[target if targets else ""] = Reference.parse(name if equals else word).or_latest
    return ChosenImages(images)


def images_of_commit(query: CommitQuery, config: Config, delivery: Delivery) -> ChosenImages:
    """The images of this commit: those of its last run, else those with one of its tags."""
    from shipline.git import resolve
    from shipline.home import state_directory
    from shipline.ship.runs import Runs
    from shipline.ship.steps.deploy import published_images
    from shipline.ship.steps.publish import names_of

    commit = resolve(query.git, "HEAD")
    root = str(config.file.parent) if config.file else ""
    for run in Runs(state_directory()).all():
        if run.root != root or run.commit != commit or not names_of(run):
            continue
        if images := published_images(run, config.pipeline.images):
            return ChosenImages(images, run)
    if not config.pipeline.images:
        raise ConfigError(
            "shipline.yaml names no image",
            code="config-no-image",
            hint="name one: shipline deploy IMAGE",
        )
    decision = expected_decision(query)
    tags = sorted(decision.tags, key=lambda tag: tag.mutable)
    return ChosenImages(
        {
            target: _tagged(delivery, repository, [tag.name for tag in tags], commit)
            for target, repository in config.pipeline.images.items()
        }
    )


def _tagged(
    delivery: Delivery, repository: Reference, tags: Sequence[str], commit: str
) -> Reference:
    """The image under the first of the tags that is there and of the commit."""
    from shipline.gates.context import REVISION, image_facts

    source = delivery.repositories(repository)
    for tag in tags:
        try:
            target = source.resolve(tag)
        except NotFound:
            continue
        facts = image_facts(source, target).platforms
        if all(part.labels.get(REVISION, commit) == commit for part in facts):
            return repository.tagged(tag).at(target.digest)
    raise NotFound(
        f"{repository} has no image of the commit {commit[:12]}",
        code="image-of-commit",
        hint="`shipline ship` publishes it; or name an image: shipline deploy IMAGE",
    )


def tell_race(attempt: int) -> None:
    """Say on standard error that another push was first."""
    click.echo(f"another push was first; deciding again (attempt {attempt + 1})", err=True)


def show_deployed(done: Deployed, *, dry_run: bool, as_json: bool) -> None:
    """Print the commit or the pull request, with `dry_run` the change."""
    if as_json:
        click.echo(json.dumps(_as_json(done, dry_run), indent=2))
        return
    if not done.commit:
        images = ", ".join(map(str, done.deployment.images))
        click.echo(f"{done.deployment.environment} has {images} already", err=True)
        return
    if dry_run:
        for path, (before, after) in done.files.items():
            click.echo(_patch(path, before.decode(), after.decode()), nl=False)
        return
    click.echo(done.address or done.commit)


def _patch(path: str, before: str, after: str) -> str:
    """The change of a file as `git apply` takes it: with its own line ends."""
    old, new = (re.findall(r"[^\n]*\n|[^\n]+\Z", text) for text in (before, after))
    lines = difflib.unified_diff(old, new, f"a/{path}", f"b/{path}")
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _as_json(done: Deployed, dry_run: bool) -> dict[str, Any]:
    deployment = done.deployment
    return {
        "environment": deployment.environment,
        "app": deployment.app,
        "images": [str(image) for image in deployment.images],
        "previous": [str(image) for image in deployment.previous],
        "source": deployment.commit,
        "commit": "" if dry_run else done.commit,
        "pull_request": done.address,
        "files": sorted(done.files),
    }
