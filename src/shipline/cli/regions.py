"""`shipline regions`: the registries that serve images elsewhere."""

from __future__ import annotations

import click

from shipline.cli.environment import host_of, registry_options
from shipline.cli.region_check import check_command
from shipline.cli.region_states import show_states
from shipline.errors import UsageError


@click.group("regions", invoke_without_command=True)
@click.option(
    "--node", metavar="HOST[:PORT]", help="The node to ask; log in there as an administrator."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--watch", is_flag=True, help="Every two seconds, until interrupted.")
@registry_options
@click.pass_context
def group(context: click.Context, node: str | None, as_json: bool, watch: bool) -> None:
    """Show how far the regions of a node are.

    Its followers as of their last poll, and the replications that it makes itself.
    """
    if context.invoked_subcommand is not None:
        return
    if node is None:
        raise UsageError("no node given", hint="pass --node HOST, a primary or an edge")
    show_states(host_of(node), as_json=as_json, watch=watch)


group.add_command(check_command)
