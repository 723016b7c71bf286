"""`shipline registry user` and `project`: people, and what they may use.

These commands, and those of robots, act on the data directory itself, with the rights of whoever
may write to it; a node that serves it takes notice at once.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Any

import click

from shipline.cli.registry_directory import data_option, opened, table, when
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
@data_option
def add_user(name: str, admin: bool, password_stdin: bool, data: Path) -> None:
    """Add a user; asks for the password."""
    with opened(data) as (_, administration):
        administration.add_user(name, _password(password_stdin), admin=admin)
    click.echo(f"user {name} added", err=True)


@user.command("passwd")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@data_option
def passwd(name: str, password_stdin: bool, data: Path) -> None:
    """Give a user a new password; refresh tokens end."""
    with opened(data) as (_, administration):
        administration.set_password(name, _password(password_stdin))
    click.echo(f"user {name} has a new password", err=True)


@user.command("set")
@click.argument("name")
@click.option("--admin/--no-admin", default=None, help="May do everything, or not.")
@click.option("--disable/--enable", default=None, help="May not come in, or may again.")
@data_option
def set_user(name: str, admin: bool | None, disable: bool | None, data: Path) -> None:
    """Change what a user is."""
    wanted = {"admin": admin, "disabled": disable}
    fields = {key: value for key, value in wanted.items() if value is not None}
    if not fields:
        raise UsageError("nothing to change", hint="say --admin, --no-admin, --disable or --enable")
    with opened(data) as (_, administration):
        administration.set_user(name, **fields)


@user.command("rm")
@click.argument("name")
@data_option
def remove_user(name: str, data: Path) -> None:
    """Remove a user."""
    with opened(data) as (_, administration):
        administration.remove_user(name)


@user.command("ls")
@data_option
def list_users(data: Path) -> None:
    """List users."""
    with opened(data) as (directory, _):
        rows = [
            (
                one.name,
                "administrator" if one.admin else "user",
                "disabled" if one.disabled else "",
                when(directory.last_used(one.name)),
            )
            for one in sorted(directory.view().users.values(), key=lambda one: one.name)
        ]
    table(("NAME", "KIND", "STATE", "LAST USED"), rows)


@click.group("project")
def project() -> None:
    """Projects: who may use the repositories below a prefix."""


@project.command("add")
@click.argument("name")
@click.option("--public", is_flag=True, help="Everybody may pull.")
@data_option
def add_project(name: str, public: bool, data: Path) -> None:
    """Add a project; NAME begins the names of its repositories."""
    with opened(data) as (_, administration):
        administration.add_project(name, public=public)
    click.echo(f"project {name} added", err=True)


@project.command("set")
@click.argument("name")
@click.option("--public/--private", required=True, help="Whether everybody may pull.")
@data_option
def set_project(name: str, public: bool, data: Path) -> None:
    """Change who may pull."""
    with opened(data) as (_, administration):
        administration.set_project(name, public=public)


@project.command("rm")
@click.argument("name")
@data_option
def remove_project(name: str, data: Path) -> None:
    """Remove a project with its robots; its images stay, for administrators."""
    with opened(data) as (_, administration):
        administration.remove_project(name)


@project.command("member")
@click.argument("name")
@click.argument("member")
@click.argument("role", type=click.Choice([*_ROLES, "none"]))
@data_option
def set_member(name: str, member: str, role: Any, data: Path) -> None:
    """Give user MEMBER a role in project NAME, or none."""
    with opened(data) as (_, administration):
        administration.set_member(name, member, None if role == "none" else role)


@project.command("ls")
@data_option
def list_projects(data: Path) -> None:
    """List projects and their members."""
    with opened(data) as (directory, _):
        rows = [
            (
                one.name,
                "public" if one.public else "private",
                ", ".join(f"{name} ({role})" for name, role in sorted(one.members.items())),
            )
            for one in sorted(directory.view().projects.values(), key=lambda one: one.name)
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
