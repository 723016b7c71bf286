"""`shipline registry robot`, `token` and `audit`: programs, their proofs, and what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.registry_directory import data_option, opened, table, when
from shipline.errors import UsageError

if TYPE_CHECKING:
    from shipline.server.access import Directory, Permission, Robot

_ACTIONS = ("pull", "push", "create", "update", "delete")


@click.group("robot")
def robot() -> None:
    """Accounts for programs."""


@robot.command("add")
@click.argument("name")
@click.option("--project", "home", default="", metavar="NAME", help="Its project; none: system.")
@click.option(
    "--allow",
    type=click.Choice(_ACTIONS),
    multiple=True,
    default=("pull",),
    show_default=True,
    help="push may overwrite tags, create may not.",
)
@click.option("--repository", multiple=True, metavar="PATTERN", help="Only these repositories.")
@click.option("--tag", multiple=True, metavar="PATTERN", help="Only these tags.")
@click.option("--network", multiple=True, metavar="CIDR", help="Only from these networks.")
@click.option("--days", type=int, default=-1, metavar="N", help="Ends after N days; -1: never.")
@click.option("--description", default="", metavar="TEXT")
@data_option
def add_robot(name: str, home: str, data: Path, **wanted: Any) -> None:
    """Add a robot; prints its secret, once."""
    from shipline.server.access import Wish

    with opened(data) as (_, administration):
        wish = Wish(
            name,
            home,
            (_permission(home, wanted),),
            wanted["description"],
            False,
            wanted["days"],
            wanted["network"],
        )
        made, secret = administration.add_robot(wish)
    click.echo(f"robot {made.login} added; its secret is shown only now", err=True)
    click.echo(secret)


@robot.command("rotate")
@click.argument("login")
@click.option("--overlap", default="0s", metavar="TIME", help="The old secret stays valid so long.")
@data_option
def rotate_robot(login: str, overlap: str, data: Path) -> None:
    """Give a robot a new secret; prints it, once."""
    with opened(data) as (directory, administration):
        number = _robot(directory, login).id
        secret = administration.rotate_robot(number, overlap_s=_seconds(overlap))
    click.echo(secret)


@robot.command("set")
@click.argument("login")
@click.option("--disable/--enable", required=True, help="May not come in, or may again.")
@data_option
def set_robot(login: str, disable: bool, data: Path) -> None:
    """Disable a robot, or enable it."""
    from shipline.server.access import Wish

    with opened(data) as (directory, administration):
        found = _robot(directory, login)
        wish = Wish(
            found.name,
            found.project,
            found.permissions,
            found.description,
            disable,
            found.duration,
            found.networks,
        )
        administration.set_robot(found.id, wish)


@robot.command("rm")
@click.argument("login")
@data_option
def remove_robot(login: str, data: Path) -> None:
    """Remove a robot."""
    with opened(data) as (directory, administration):
        administration.remove_robot(_robot(directory, login).id)


@robot.command("ls")
@data_option
def list_robots(data: Path) -> None:
    """List robots."""
    with opened(data) as (directory, _):
        now = directory.clock()
        rows = [
            (
                one.login,
                "; ".join(_words(entry) for entry in one.permissions),
                "ok" if one.usable(now) else "disabled" if one.disabled else "expired",
                when(one.expires),
                when(directory.last_used(one.login)),
            )
            for one in sorted(directory.view().robots.values(), key=lambda one: one.id)
        ]
    table(("LOGIN", "MAY", "STATE", "EXPIRES", "LAST USED"), rows)


@click.group("token")
def token() -> None:
    """Refresh tokens, and the keys that sign."""


@token.command("ls")
@data_option
def list_tokens(data: Path) -> None:
    """List refresh tokens, without their secrets."""
    from shipline.server.access import refresh_tokens

    with opened(data) as (directory, _):
        rows = [
            (one.subject, one.client, when(one.created), when(one.expires))
            for one in refresh_tokens(directory)
        ]
    table(("ACCOUNT", "CLIENT", "CREATED", "EXPIRES"), rows)


@token.command("revoke")
@click.argument("account")
@data_option
def revoke(account: str, data: Path) -> None:
    """End all refresh tokens of an account."""
    with opened(data) as (_, administration):
        click.echo(f"{administration.revoke(account)} refresh tokens revoked", err=True)


@token.command("rotate-key")
@click.option("--now", is_flag=True, help="End what the old one signed at once: it was stolen.")
@data_option
def rotate_key(now: bool, data: Path) -> None:
    """Sign with a new key from now on; what the old one signed ends within an hour."""
    with opened(data) as (_, administration):
        click.echo(administration.rotate_key(now=now))


@click.command("audit")
@click.option("--last", type=click.IntRange(1), metavar="N", help="Only the last N lines.")
@click.option("--json", "as_json", is_flag=True, help="Lines of JSON, as they are kept.")
@data_option
def audit(last: int | None, as_json: bool, data: Path) -> None:
    """Print who did what, when and from where."""
    from shipline.server.access import read_audit

    for line in read_audit(data, last=last or 0):
        click.echo(json.dumps(line) if as_json else _sentence(line))


def _permission(home: str, wanted: dict[str, Any]) -> Permission:
    from shipline.server.access import Access, Permission

    access = tuple(Access("repository", action) for action in wanted["allow"])
    patterns = (wanted["repository"], wanted["tag"])
    return Permission(home or "*", access, "project", *patterns)


def _robot(directory: Directory, login: str) -> Robot:
    found = directory.view().logins.get(login)
    if found is None:
        raise UsageError(f"there is no robot {login}", hint="shipline registry robot ls")
    return found


def _words(entry: Permission) -> str:
    may = ",".join(
        one.action if one.resource == "repository" else f"{one.resource}:{one.action}"
        for one in entry.access
    )
    where = ",".join(entry.repositories) or entry.namespace
    return f"{may} {where}" + (f" tags {','.join(entry.tags)}" if entry.tags else "")


def _seconds(text: str) -> float:
    from shipline.units import Duration

    if text in ("0", "0s"):
        return 0.0
    try:
        return Duration.parse(text).seconds
    except ValueError as error:
        raise UsageError(str(error)) from None


def _sentence(line: dict[str, Any]) -> str:
    what = line.get("repository", "")
    if line.get("tags"):
        what += ":" + ",".join(line["tags"])
    if line.get("digest"):
        what += f"@{line['digest']}"
    who = f"{line.get('actor') or '-'} {line.get('address') or '-'}"
    parts = (line["at"], line["kind"], who, what, line.get("message", ""))
    return "  ".join(part for part in parts if part)
