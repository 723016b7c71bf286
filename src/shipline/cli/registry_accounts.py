"""`shipline registry user` and `project`: people, and what they may use.

These commands, and those of robots, act on the data directory itself or on a running node.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Any

import click

from shipline.cli.registry_directory import place_options, reached, table, when
from shipline.errors import UsageError

_ROLES = ("limited-guest", "guest", "developer", "maintainer", "admin")
_LONGEST = 4096  # characters of a password on standard input


@click.group("user")
def user() -> None:
    """People who may use the registry."""


@user.command("add")
@click.argument("name")
@click.option("--admin", is_flag=True, help="May do everything.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@place_options
def add_user(
    name: str, admin: bool, password_stdin: bool, data: Path | None, node: str | None
) -> None:
    """Add a user; asks for the password."""
    with reached(data, node) as accounts:
        accounts.do("add-user", name=name, password=_password(password_stdin), admin=admin)
    click.echo(f"user {name} added", err=True)


@user.command("passwd")
@click.argument("name", default="")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@place_options
def passwd(name: str, password_stdin: bool, data: Path | None, node: str | None) -> None:
    """Give a user a new password; refresh tokens end. At a node, without NAME, your own."""
    if not name and node is None:
        raise UsageError("whose password?", hint="name the user")
    with reached(data, node) as accounts:
        accounts.do("set-password", name=name, password=_password(password_stdin))
    click.echo(f"user {name} has a new password" if name else "password changed", err=True)


@user.command("set")
@click.argument("name")
@click.option("--admin/--no-admin", default=None, help="May do everything, or not.")
@click.option("--disable/--enable", default=None, help="May not come in, or may again.")
@place_options
def set_user(
    name: str, admin: bool | None, disable: bool | None, data: Path | None, node: str | None
) -> None:
    """Change what a user is."""
    wanted = {"admin": admin, "disabled": disable}
    fields = {key: value for key, value in wanted.items() if value is not None}
    if not fields:
        raise UsageError("nothing to change", hint="say --admin, --no-admin, --disable or --enable")
    with reached(data, node) as accounts:
        accounts.do("set-user", name=name, **fields)


@user.command("rm")
@click.argument("name")
@place_options
def remove_user(name: str, data: Path | None, node: str | None) -> None:
    """Remove a user."""
    with reached(data, node) as accounts:
        accounts.do("remove-user", name=name)


@user.command("ls")
@place_options
def list_users(data: Path | None, node: str | None) -> None:
    """List users."""
    with reached(data, node) as accounts:
        rows = [
            (
                one["name"],
                "administrator" if one["admin"] else "user",
                "disabled" if one["disabled"] else "",
                when(one["used"]),
            )
            for one in accounts.listed("users")
        ]
    table(("NAME", "KIND", "STATE", "LAST USED"), rows)


@click.group("project")
def project() -> None:
    """Projects: who may use the repositories below a prefix."""


@project.command("add")
@click.argument("name")
@click.option("--public", is_flag=True, help="Everybody may pull.")
@place_options
def add_project(name: str, public: bool, data: Path | None, node: str | None) -> None:
    """Add a project; NAME begins the names of its repositories."""
    with reached(data, node) as accounts:
        accounts.do("add-project", name=name, public=public)
    click.echo(f"project {name} added", err=True)


@project.command("set")
@click.argument("name")
@click.option("--public/--private", required=True, help="Whether everybody may pull.")
@place_options
def set_project(name: str, public: bool, data: Path | None, node: str | None) -> None:
    """Change who may pull."""
    with reached(data, node) as accounts:
        accounts.do("set-project", name=name, public=public)


@project.command("rm")
@click.argument("name")
@place_options
def remove_project(name: str, data: Path | None, node: str | None) -> None:
    """Remove a project with its robots; its images stay, for administrators."""
    with reached(data, node) as accounts:
        accounts.do("remove-project", name=name)


@project.command("member")
@click.argument("name")
@click.argument("member")
@click.argument("role", metavar="ROLE", type=click.Choice([*_ROLES, "none"]))
@place_options
def set_member(name: str, member: str, role: Any, data: Path | None, node: str | None) -> None:
    """Give user MEMBER a role in project NAME, or none."""
    with reached(data, node) as accounts:
        said = None if role == "none" else role
        accounts.do("set-member", project=name, user=member, role=said)


@project.command("ls")
@place_options
def list_projects(data: Path | None, node: str | None) -> None:
    """List projects and their members."""
    with reached(data, node) as accounts:
        rows = [
            (
                one["name"],
                "public" if one["public"] else "private",
                ", ".join(f"{name} ({role})" for name, role in sorted(one["members"].items())),
            )
            for one in accounts.listed("projects")
        ]
    table(("NAME", "VISIBILITY", "MEMBERS"), rows)


def _password(from_stdin: bool) -> str:
    """Typed twice, or one line of standard input."""
    if from_stdin:
        return sys.stdin.readline(_LONGEST).rstrip("\r\n")
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for the password", hint="pipe it: --password-stdin"
        )
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise UsageError("the two passwords differ")
    return first
