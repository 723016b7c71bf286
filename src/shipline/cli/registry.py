"""`shipline registry`: run a registry node."""

from __future__ import annotations

import click

from shipline.cli.registry_accounts import audit, project, robot, token, user
from shipline.cli.registry_maintenance import check, convert, gc, repair, retention, webhook
from shipline.cli.registry_serve import serve


@click.group("registry")
def group() -> None:
    """Run a registry node."""


for _command in (
    serve,
    user,
    project,
    robot,
    token,
    audit,
    webhook,
    gc,
    retention,
    check,
    repair,
    convert,
):
    group.add_command(_command)
