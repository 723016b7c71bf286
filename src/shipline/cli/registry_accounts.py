"""`shipline registry user`, `project`, `robot`, `token` and `audit`, on a data directory or a
running node.
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from shipline.cli.program import CommandGroup
from shipline.cli.registry_node import (
    Accounts,
    open_accounts,
    table,
    target_options,
    when,
    with_accounts,
)
from shipline.errors import MissingFlag, UsageError

_ROLES = ("limited-guest", "guest", "developer", "maintainer", "admin")
_LONGEST = 4096  # characters of a password on standard input


@click.group("user", cls=CommandGroup)
def user() -> None:
    """People who may use the registry."""


@user.command("add")
@click.argument("name")
@click.option("--admin", is_flag=True, help="Make an administrator.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@with_accounts
def add_user(accounts: Accounts, name: str, admin: bool, password_stdin: bool) -> None:
    """Add a user; asks for the password."""
    accounts.do("add-user", name=name, password=_password(password_stdin), admin=admin)
    click.echo(f"user {name} added", err=True)


@user.command("passwd")
@click.argument("name", default="")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@target_options
def passwd(name: str, password_stdin: bool, data: Path | None, node: str | None) -> None:
    """Set a user's password and revoke refresh tokens. At a node, without NAME, your own."""
    if not name and node is None:
        raise MissingFlag("no user given", hint="pass the user's NAME")
    with open_accounts(data, node) as accounts:
        accounts.do("set-password", name=name, password=_password(password_stdin))
    click.echo(f"user {name} has a new password" if name else "password changed", err=True)


@user.command("set")
@click.argument("name")
@click.option("--admin/--no-admin", default=None, help="Grant or revoke administrator rights.")
@click.option("--disable/--enable", default=None, help="Disable or enable the account.")
@with_accounts
def set_user(accounts: Accounts, name: str, admin: bool | None, disable: bool | None) -> None:
    """Change a user."""
    options = {"admin": admin, "disabled": disable}
    fields = {key: value for key, value in options.items() if value is not None}
    if not fields:
        raise MissingFlag(
            "nothing to change", hint="pass --admin, --no-admin, --disable or --enable"
        )
    accounts.do("set-user", name=name, **fields)


@user.command("rm")
@click.argument("name")
@with_accounts
def remove_user(accounts: Accounts, name: str) -> None:
    """Remove a user."""
    accounts.do("remove-user", name=name)


@user.command("ls")
@with_accounts
def list_users(accounts: Accounts) -> None:
    """List users."""
    rows = [
        (
            user["name"],
            "administrator" if user["admin"] else "user",
            "disabled" if user["disabled"] else "",
            when(user["used"]),
        )
        for user in accounts.listed("users")
    ]
    table(("NAME", "KIND", "STATE", "LAST USED"), rows)


@click.group("project", cls=CommandGroup)
def project() -> None:
    """Projects: who may use the repositories below a prefix."""


@project.command("add")
@click.argument("name")
@click.option("--public", is_flag=True, help="Everyone may pull.")
@with_accounts
def add_project(accounts: Accounts, name: str, public: bool) -> None:
    """Add a project; NAME is the prefix of its repositories."""
    accounts.do("add-project", name=name, public=public)
    click.echo(f"project {name} added", err=True)


@project.command("set")
@click.argument("name")
@click.option("--public/--private", required=True, help="Whether everyone may pull.")
@with_accounts
def set_project(accounts: Accounts, name: str, public: bool) -> None:
    """Change who may pull."""
    accounts.do("set-project", name=name, public=public)


@project.command("rm")
@click.argument("name")
@with_accounts
def remove_project(accounts: Accounts, name: str) -> None:
    """Remove a project with its robots; its images stay, for administrators."""
    accounts.do("remove-project", name=name)


@project.command("member")
@click.argument("name")
@click.argument("member")
@click.argument("role", metavar="ROLE", type=click.Choice([*_ROLES, "none"]))
@with_accounts
def set_member(accounts: Accounts, name: str, member: str, role: Any) -> None:
    """Set the role of user MEMBER in project NAME; none removes the member."""
    arguments = None if role == "none" else role
    accounts.do("set-member", project=name, user=member, role=arguments)


@project.command("ls")
@with_accounts
def list_projects(accounts: Accounts) -> None:
    """List projects and their members."""
    rows = [
        (
            project["name"],
            "public" if project["public"] else "private",
            ", ".join(f"{name} ({role})" for name, role in sorted(project["members"].items())),
        )
        for project in accounts.listed("projects")
    ]
    table(("NAME", "VISIBILITY", "MEMBERS"), rows)


def _password(from_stdin: bool) -> str:
    """Prompted for twice, or one line of standard input."""
    if from_stdin:
        return sys.stdin.readline(_LONGEST).rstrip("\r\n")
    if not sys.stdin.isatty():
        raise UsageError(
            "no terminal to prompt for the password",
            code="terminal-needed",
            hint="use --password-stdin",
        )
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise UsageError("the passwords differ", code="password-mismatch")
    return first


_ACTIONS = ("pull", "push", "create", "update", "delete", "replicate")


@click.group("robot", cls=CommandGroup)
def robot() -> None:
    """Accounts for programs."""


@robot.command("add")
@click.argument("name")
@click.option(
    "--project", "project_name", default="", metavar="NAME", help="Its project; default: system."
)
@click.option(
    "--allow",
    type=click.Choice(_ACTIONS),
    multiple=True,
    default=("pull",),
    show_default=True,
    help="push may overwrite tags, create may not; replicate reads the journal, and pulls.",
)
@click.option("--repository", multiple=True, metavar="PATTERN", help="Only these repositories.")
@click.option("--tag", multiple=True, metavar="PATTERN", help="Only these tags.")
@click.option("--network", multiple=True, metavar="CIDR", help="Only from these networks.")
@click.option("--days", type=int, default=-1, metavar="N", help="Expires after N days; -1: never.")
@click.option("--description", default="", metavar="TEXT")
@with_accounts
def add_robot(accounts: Accounts, name: str, project_name: str, **options: Any) -> None:
    """Add a robot and print its secret, which is shown only once."""
    result = accounts.do(
        "add-robot",
        name=name,
        project=project_name,
        permissions=[_permission(project_name, options)],
        description=options["description"],
        duration=options["days"],
        networks=list(options["network"]),
    )
    click.echo(f"robot {result['login']} added; its secret is shown only now", err=True)
    click.echo(result["secret"])


@robot.command("rotate")
@click.argument("login")
@click.option(
    "--overlap", default="0s", metavar="TIME", help="How long the old secret stays valid."
)
@with_accounts
def rotate_robot(accounts: Accounts, login: str, overlap: str) -> None:
    """Generate a new secret for a robot and print it, once."""
    result = accounts.do("rotate-robot", login=login, overlap=round(_seconds(overlap)))
    click.echo(result["secret"])


@robot.command("set")
@click.argument("login")
@click.option("--disable/--enable", required=True, help="Disable or enable the account.")
@with_accounts
def set_robot(accounts: Accounts, login: str, disable: bool) -> None:
    """Disable a robot, or enable it."""
    accounts.do("set-robot", login=login, disabled=disable)


@robot.command("rm")
@click.argument("login")
@with_accounts
def remove_robot(accounts: Accounts, login: str) -> None:
    """Remove a robot."""
    accounts.do("remove-robot", login=login)


@robot.command("ls")
@with_accounts
def list_robots(accounts: Accounts) -> None:
    """List robots."""
    rows = [
        (robot["name"], robot["may"], robot["state"], when(robot["expires"]), when(robot["used"]))
        for robot in accounts.listed("robots")
    ]
    table(("LOGIN", "MAY", "STATE", "EXPIRES", "LAST USED"), rows)


@click.group("token", cls=CommandGroup)
def token() -> None:
    """Refresh tokens and signing keys."""


@token.command("ls")
@with_accounts
def list_tokens(accounts: Accounts) -> None:
    """List refresh tokens, without their secrets."""
    rows = [
        (token["account"], token["client"], when(token["created"]), when(token["expires"]))
        for token in accounts.listed("tokens")
    ]
    table(("ACCOUNT", "CLIENT", "CREATED", "EXPIRES"), rows)


@token.command("revoke")
@click.argument("account")
@with_accounts
def revoke(accounts: Accounts, account: str) -> None:
    """Revoke all refresh tokens of an account."""
    number = accounts.do("revoke", account=account)
    click.echo(f"{number} refresh tokens revoked", err=True)


@token.command("rotate-key")
@click.option("--now", is_flag=True, help="Revoke tokens of old keys at once, as after a theft.")
@with_accounts
def rotate_key(accounts: Accounts, now: bool) -> None:
    """Sign with a new key; tokens of the old one expire within an hour."""
    click.echo(accounts.do("rotate-key", now=now))


@click.command("audit")
@click.option("--last", type=click.IntRange(1), metavar="N", help="Only the last N lines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, as stored.")
@with_accounts
def audit(accounts: Accounts, last: int | None, as_json: bool) -> None:
    """Print who did what, when and from where."""
    for line in accounts.audit(last or 0):
        click.echo(json.dumps(line) if as_json else _sentence(line))


def _permission(project_name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "project",
        "namespace": project_name or "*",
        "access": [{"resource": "repository", "action": action} for action in options["allow"]],
        "repositories": list(options["repository"]),
        "tags": list(options["tag"]),
    }


def _seconds(text: str) -> float:
    from shipline.units import Duration

    if text in ("0", "0s"):
        return 0.0
    try:
        return Duration.parse(text).seconds
    except ValueError as error:
        raise UsageError(str(error), code="account-invalid") from None


def _sentence(line: Mapping[str, Any]) -> str:
    what = line.get("repository", "")
    if line.get("tags"):
        what += ":" + ",".join(line["tags"])
    if line.get("digest"):
        what += f"@{line['digest']}"
    who = f"{line.get('actor') or '-'} {line.get('address') or '-'}"
    parts = (line["at"], line["kind"], who, what, line.get("message", ""))
    return "  ".join(part for part in parts if part)
