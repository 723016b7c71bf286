"""`shipline check`: whether an environment runs what was deployed, and passes its checks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shipline.cli.commit import CommitQuery, project_options
from shipline.cli.environment import registry_options
from shipline.cli.interrupts import run_in_step
from shipline.errors import NotFound

if TYPE_CHECKING:
    from shipline.config import Config
    from shipline.deliver.checks import EnvironmentVerdict
    from shipline.deliver.delivery import Delivery
    from shipline.deliver.environments import EnvironmentSection
    from shipline.deliver.gitops import Deployment
    from shipline.events import Step

T = TypeVar("T")


@click.command("check")
@click.option("-e", "--env", "environment", required=True, metavar="NAME", help="The environment.")
@click.option("--checks/--no-checks", default=True, help="Run its checks, or wait for health only.")
@click.option("--record/--no-record", "keep", default=True, help="Record the verdict in git.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@project_options
@registry_options
def command(query: CommitQuery, environment: str, checks: bool, keep: bool, as_json: bool) -> None:
    """Wait until an environment runs what was deployed last and is healthy, run its checks, and
    record the verdict in the GitOps repository.

    Exits with 0 if all passed, with 17 if it is not healthy or a check failed, and with 11 if it
    cannot be determined.
    """
    from shipline.api import open_client
    from shipline.cli.deploy import configured, delivery_of
    from shipline.deliver.gitops import RECORDS, deployed, history

    config, section = configured(query, environment)
    with open_client() as client:
        delivery = delivery_of(query, config, client)
        app = delivery.app
        with delivery.branch(section.gitops) as branch:
            there = deployed(history(branch, branch.fetch(RECORDS), app, environment), environment)
        if there is None:
            raise NotFound(
                f"{environment} has no deployment of {app}",
                code="deployment-missing",
                hint=f"shipline deploy --env {environment} makes one",
            )
        done = verified(delivery, config, section, there, checks=checks, keep=keep)
    if as_json:
        click.echo(json.dumps(verification_json(done), indent=2))
    done.require()
    if not as_json:
        show_verified(done)


def verified(
    delivery: Delivery,
    config: Config,
    section: EnvironmentSection,
    deployment: Deployment,
    *,
    checks: bool,
    keep: bool = True,
) -> EnvironmentVerdict:
    """Verify a deployment, with its progress on standard error. An interruption ends it."""
    from shipline.deliver.checks import verify

    return with_progress(
        f"verify {deployment.environment}",
        lambda step: verify(
            delivery, section, deployment, step, gates=config.gates, checks=checks, keep=keep
        ),
        kind="check",
        name=deployment.environment,
        follows=deployment.trace,
    )


def with_progress(
    title: str, work: Callable[[Step], T], *, kind: str, name: str, follows: str = ""
) -> T:
    """The result of `work`, with its progress on standard error. An interruption ends it; `kind`,
    `name` and `follows` are those of `observed`.
    """
    from shipline.cli.observing import observed
    from shipline.observe import open_sinks

    sinks = open_sinks("auto", sys.stderr, os.environ)
    with observed(kind, name, sinks=sinks, facts={"title": title}, follows=follows) as run:
        return run_in_step(lambda: work(run.step), run.step)


def show_verified(done: EnvironmentVerdict) -> None:
    """Say on standard error what passed."""
    for result in done.results:
        click.echo(result.line, err=True)
    if not done.results:
        click.echo(f"{done.deployment.environment} has neither health nor checks", err=True)


def verification_json(done: EnvironmentVerdict) -> dict[str, Any]:
    """The results for other programs."""
    return {
        "environment": done.deployment.environment,
        "app": done.deployment.app,
        "images": [str(image) for image in done.deployment.images],
        "verdict": done.grade,
        "results": [
            {
                "name": one.name,
                "verdict": one.grade,
                "reason": one.reason,
                "hint": one.hint,
                "details": [*one.details],
            }
            for one in done.results
        ],
        "record": done.record.id if done.record else "",
    }
