"""`shipline canary`: deploy images step by step, while they are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from shipline.cli.commit import CommitQuery, commit_options
from shipline.cli.deploy import chosen_deployment, configured, delivery_of
from shipline.cli.environment import registry_options
from shipline.errors import ConfigError, FlagConflict

if TYPE_CHECKING:
    from shipline.deliver.delivery import Delivery
    from shipline.deliver.environments import EnvironmentSection
    from shipline.deliver.gitops import Deployment
    from shipline.oci import Reference


@click.command("canary")
@click.argument("images", nargs=-1, metavar="[IMAGE...]")
@click.option("-e", "--env", "environment", required=True, metavar="NAME", help="The environment.")
@click.option(
    "--resume", is_flag=True, help="Continue the images whose weights are in git, also if frozen."
)
@commit_options
@registry_options
def command(query: CommitQuery, images: Sequence[str], environment: str, resume: bool) -> None:
    """Give IMAGE... more and more of the traffic of an environment, and deploy it in the end.

    The weights are those of `environments.NAME.canary`, and are pushed to its GitOps repository.
    Without IMAGE, it is found as by `shipline deploy`, and the policy of the environment must allow
    it. Prints the commit that deployed. The same command continues a canary that was
    interrupted.
    """
    from shipline.api import open_client
    from shipline.cli.observing import observed
    from shipline.deliver.canary.progress import run
    from shipline.deliver.promotion import PromotionRequest, promote
    from shipline.deliver.rollout import settle
    from shipline.values import replace

    config, section = configured(query, environment)
    if section.canary is None:
        raise ConfigError(
            f"the environment {environment} has no canary",
            code="canary-missing",
            hint=f"add environments.{environment}.canary with weights and steps, or use deploy",
        )
    if resume and images:
        raise FlagConflict("--resume takes the images from git: name none")
    with open_client() as client:
        delivery = delivery_of(query, config, client)
        if resume:
            found, deployment = _resumed(section, delivery, environment)
        else:
            delivery, found, deployment = chosen_deployment(
                query, config, delivery, environment, images
            )
            request = PromotionRequest(environment=environment, chosen=deployment, images=found)
            allowed = promote(delivery, request, dry_run=True)
            deployment = replace(allowed.deployment, id="", previous=())
        with observed(
            "canary", environment, follows=deployment.trace if resume else ""
        ) as observing:
            well = partial(settle, delivery, section, deployment, observing.step)
            done = run(
                delivery,
                section.gitops,
                section.canary,
                found,
                deployment,
                settle=well if section.health else None,
                on_message=lambda line: click.echo(line, err=True),
                resume=resume,
            )
    if done is None:
        shown = ", ".join(map(str, deployment.images))
        click.echo(f"{environment} has {shown} already", err=True)
    else:
        click.echo(done.id)


def _resumed(
    section: EnvironmentSection, delivery: Delivery, environment: str
) -> tuple[Mapping[str, Reference], Deployment]:
    """The images of the canary that is there, by target."""
    from shipline.deliver.canary.state import in_progress

    with delivery.branch(section.gitops) as branch:
        there = in_progress(branch, delivery.app, environment)
    by_name = {image.name: image for image in there.images}
    images = {
        target: by_name[place.name]
        for target, place in delivery.targets.items()
        if place.name in by_name
    }
    return delivery.trusted(images).images, there
