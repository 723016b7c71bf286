"""`shipline promote`, `approve`, `hold`, `release`, `rollback`: which image an environment gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from shipline.cli.check import with_progress
from shipline.cli.commit import CommitQuery, project_options
from shipline.cli.deploy import delivery_of, required_config, show_deployed, tell_race
from shipline.cli.environment import registry_options
from shipline.errors import InvalidFlag

if TYPE_CHECKING:
    from shipline.deliver.delivery import Delivery
    from shipline.deliver.gitops import Deployment


def _named(context: click.Context, parameter: click.Parameter, word: str | None) -> str:
    """The word, empty if there is none. Raises UsageError for an empty one, such as a variable that
    is not set.
    """
    if word == "":
        raise InvalidFlag(f"{parameter.opts[0]} is empty", hint="name it, or leave it out")
    return word or ""


_IMAGE = click.argument("image", required=False, metavar="[IMAGE]", callback=_named)
_ENVIRONMENT = click.option(
    "-e", "--env", "environment", required=True, metavar="NAME", help="The environment."
)
REASON = click.option(
    "-m", "--reason", default="", metavar="TEXT", help="Why, for those who read the history."
)
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show the change, and push nothing.")
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the deployment as JSON.")


@contextmanager
def open_delivery(query: CommitQuery) -> Iterator[Delivery]:
    """The delivery of the project, with an open HTTP client."""
    from shipline.api import open_client
    from shipline.deliver.environments import require_environments

    config = required_config(query)
    require_environments(config.environments or {})
    with open_client() as client:
        yield delivery_of(query, config, client)


@click.command("promote")
@_IMAGE
@_ENVIRONMENT
@click.option(
    "--from",
    "source",
    callback=_named,
    metavar="NAME",
    help="The environment whose image is taken; by default the one before it.",
)
@click.option(
    "--allow-older", is_flag=True, help="Promote also what is older than what is deployed."
)
@click.option(
    "--replace-image", is_flag=True, help="Also where the file has an image of another repository."
)
@click.option(
    "--wait", is_flag=True, help="Wait until it runs and is healthy, check it, record the verdict."
)
@click.option("--no-checks", is_flag=True, help="With --wait: do not run the checks.")
@_DRY_RUN
@_AS_JSON
@project_options
@registry_options
def promote_command(
    query: CommitQuery,
    image: str,
    environment: str,
    source: str,
    allow_older: bool,
    replace_image: bool,
    wait: bool,
    no_checks: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Set the image of the environment before it in an environment, commit and push, if its policy
    allows it: step by step if it has a canary. IMAGE is a digest, tag or commit that was deployed
    before, or the name of an image.

    Exits with 9 if the policy refuses it, or the canary failed, and with 16 if it must wait; with
    --wait, as `shipline check`. Prints the commit, or the address of the pull request.
    """
    from shipline.deliver.promotion import PromotionRequest, promote
    from shipline.deliver.rollout import roll_out

    request = PromotionRequest(
        environment=environment,
        source=source,
        image=image,
        allow_older=allow_older,
        replace_image=replace_image,
    )
    with open_delivery(query) as delivery:
        if dry_run:
            done = promote(delivery, request, dry_run=True)
        else:
            rollout = with_progress(
                f"promote to {environment}",
                lambda step: roll_out(delivery, request, step, wait=wait, checks=not no_checks),
                kind="promote",
                name=environment,
            )
            done = rollout.deployed
    show_deployed(done, dry_run=dry_run, as_json=as_json)


@click.command("rollback")
@_IMAGE
@_ENVIRONMENT
@REASON
@_DRY_RUN
@_AS_JSON
@project_options
@registry_options
def rollback_command(
    query: CommitQuery, image: str, environment: str, reason: str, dry_run: bool, as_json: bool
) -> None:
    """Set the last verified image before the present one, or IMAGE, in an environment, and hold the
    present one there, in one push. Neither windows nor approvals delay it.
    """
    from shipline.deliver.promotion import rollback

    with open_delivery(query) as delivery:
        done = rollback(
            delivery, environment, image=image, reason=reason, dry_run=dry_run, on_race=tell_race
        )
    show_deployed(done, dry_run=dry_run, as_json=as_json)


@click.command("approve")
@_IMAGE
@_ENVIRONMENT
@REASON
@click.option(
    "--from-ci",
    is_flag=True,
    help="In the name of those who approved this job of GitHub Actions or GitLab CI.",
)
@project_options
@registry_options
def approve_command(
    query: CommitQuery, image: str, environment: str, reason: str, from_ci: bool
) -> None:
    """Approve the image of the environment before it, or IMAGE, for an environment, as the user of
    git here. Prints the commit.
    """
    from shipline.deliver.promotion import approve
    from shipline.deliver.reviews import approve_reviewed

    with open_delivery(query) as delivery:
        if from_ci:
            for done in approve_reviewed(delivery, environment, image=image, reason=reason):
                click.echo(done, err=True)
            return
        show_record(
            approve(delivery, environment, image=image, reason=reason, on_race=tell_race), ""
        )


@click.command("hold")
@_IMAGE
@_ENVIRONMENT
@REASON
@project_options
@registry_options
def hold_command(query: CommitQuery, image: str, environment: str, reason: str) -> None:
    """Keep the image of an environment, or IMAGE, from being deployed there again. Prints the
    commit.
    """
    from shipline.deliver.promotion import hold

    with open_delivery(query) as delivery:
        made = hold(delivery, environment, image=image, reason=reason, on_race=tell_race)
    show_record(made, f"it is held in {environment} already")


@click.command("release")
@_IMAGE
@_ENVIRONMENT
@REASON
@project_options
@registry_options
def release_command(query: CommitQuery, image: str, environment: str, reason: str) -> None:
    """End the hold of an image in an environment, by default of the only one. Prints the commit."""
    from shipline.deliver.promotion import release

    with open_delivery(query) as delivery:
        made = release(delivery, environment, image=image, reason=reason, on_race=tell_race)
    show_record(made, f"nothing is held in {environment}")


def show_record(made: Deployment | None, nothing: str) -> None:
    """Print the commit of a record, or that there was nothing to say."""
    if made is None:
        click.echo(nothing, err=True)
        return
    click.echo(made.subject, err=True)
    click.echo(made.id)
