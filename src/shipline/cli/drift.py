"""`shipline drift`: environments against their GitOps repository."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from shipline.cli.commit import CommitQuery, commit_options
from shipline.cli.deploy import configured, delivery_of
from shipline.cli.environment import registry_options, use_mirrors
from shipline.errors import ConfigError

if TYPE_CHECKING:
    from shipline.deliver.drift import DriftFinding


@click.command("drift")
@click.option(
    "-e",
    "--env",
    "names",
    multiple=True,
    metavar="NAME",
    help="This environment alone; by default all.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@commit_options
@registry_options
def command(query: CommitQuery, names: Sequence[str], as_json: bool) -> None:
    """Compare what git deploys to environments with the registry, its regions, and what runs.

    The image must be there by its digest, trusted, and still under its tag; it must run where
    `health` of the environment says how to see that. Exits with 15 if anything differs, whether or
    not all could be asked.
    """
    from shipline.api import open_client
    from shipline.deliver.drift import EnvironmentsDiffer, find_environment_drift
    from shipline.trust import TrustPolicy, load_trust

    known = (query.config.environments if query.config else None) or {}
    sections = {name: configured(query, name)[1] for name in names or known or [""]}
    assert query.config is not None
    config = query.config
    if not config.pipeline.images:
        raise ConfigError(
            "shipline.yaml names no image", code="config-no-image", hint="add `image: HOST/NAME`"
        )
    use_mirrors(config.registry_mirrors)
    with open_client() as client:
        delivery = delivery_of(query, config, client)
        trust = load_trust(config.trust, delivery.root) if config.trust else None
        found = find_environment_drift(
            delivery,
            sections,
            config.pipeline.images,
            config.pipeline.in_regions,
            (lambda: TrustPolicy(trust)) if trust else None,
        )
    if as_json:
        rows = [{**asdict(one), "failure": one.failure and one.failure.code} for one in found]
        click.echo(json.dumps(rows, indent=2))
    else:
        _show(found)
    if differing := Counter(one.environment for one in found if one.drifted):
        raise EnvironmentsDiffer(f"not as in git: {', '.join(differing)}")
    if failures := [one.failure for one in found if one.failure is not None]:
        raise failures[0]


def _show(found: Sequence[DriftFinding]) -> None:
    from shipline.cli.tables import columns

    heads = ("ENVIRONMENT", "IMAGE", "PLACE", "STATE", "DETAIL")
    rows = [(one.environment, one.image, one.place, one.state, one.detail) for one in found]
    click.echo(columns([heads, *rows], 2), nl=False)
