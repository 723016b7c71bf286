"""Changes to accounts, for the command line, the node's API and Harbor's.

Each takes effect at once, also on a node running in another process, and is published as an event.
A secret is returned once, by the function that generates it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from shipline.errors import UsageError
from shipline.server.access.accounts import (
    ROLES,
    Project,
    Robot,
    RobotOptions,
    Role,
    StoredSecret,
    User,
    check_project_name,
    check_robot_options,
    check_user_name,
    pack_account,
)
from shipline.server.access.keys import rotate
from shipline.server.access.login import (
    check_password,
    digest_secret,
    generate_secret,
    hash_password,
)
from shipline.server.access.store import AccountStore, AccountsView, Changes
from shipline.server.access.tokens import revoke_refresh
from shipline.server.events import NodeEvent, Publish
from shipline.values import replace

_DAY_S = 86400.0
_K = TypeVar("_K")
_V = TypeVar("_V")


class NoSuchName(UsageError):
    """No account, project or robot has that name."""

    code = "name-unknown"


class NameTaken(UsageError):
    """The name is in use."""

    code = "name-taken"


class Administration:
    """Changes made by one actor from one address."""

    def __init__(
        self,
        accounts: AccountStore,
        *,
        actor: str,
        address: str = "",
        publish: Publish = lambda event: None,
    ) -> None:
        self._accounts = accounts
        self._actor, self._address, self._publish = actor, address, publish

    @property
    def view(self) -> AccountsView:
        """The current accounts."""
        return AccountsView.of(self._accounts.records)

    def add_user(self, name: str, password: str, *, admin: bool = False) -> User:
        """Raises UsageError for a taken name or an invalid password."""
        check_user_name(name)
        password_hash = hash_password(check_password(password))
        with self._accounts.change() as changes:
            if name in self.view.users:
                raise NameTaken(f"user {name} already exists")
            number = self._accounts.next_id(changes, "user")
            user = User(name, password_hash, admin, id=number, created=self._accounts.clock())
            changes[("user", name)] = pack_account(user)
        self._publish_change(f"user {name} added" + (" as administrator" if admin else ""))
        return user

    def set_password(self, name: str, password: str) -> None:
        """Also revokes the user's refresh tokens."""
        password_hash = hash_password(check_password(password))
        self._change_user(name, "got a new password", password=password_hash)

    def set_user(self, name: str, **fields: Any) -> None:
        """Change `admin` or `disabled`. Raises UsageError for the last administrator."""
        words = ", ".join(f"{key}={value}" for key, value in fields.items())
        self._change_user(name, f"changed: {words}", **fields)

    def remove_user(self, name: str) -> None:
        """Also removes memberships and refresh tokens. Raises UsageError for the last
        administrator.
        """
        with self._accounts.change() as changes:
            view = self.view
            _require(view.users, name, "user")
            _check_administrator(view, name)
            changes[("user", name)] = None
            changes[("used", name)] = None
            revoke_refresh(self._accounts, changes, name)
            for project in view.projects.values():
                if name in project.members:
                    members = {key: role for key, role in project.members.items() if key != name}
                    changes[("project", project.name)] = pack_account(
                        replace(project, members=members)
                    )
        self._publish_change(f"user {name} removed")

    def revoke(self, name: str) -> int:
        """Revoke all refresh tokens of an account; returns their number."""
        with self._accounts.change() as changes:
            number = revoke_refresh(self._accounts, changes, name)
        self._publish_change(f"{number} refresh tokens of {name} revoked")
        return number

    def rotate_key(self, *, now: bool = False) -> str:
        """Sign tokens with a new key; returns its id. With `now`, tokens of older keys are invalid
        at once.
        """
        kid = rotate(self._accounts, now=now)
        ended = "; older ones are revoked" if now else ""
        self._publish_change(f"tokens are signed with a new key, {kid}{ended}")
        return kid

    def add_project(self, name: str, *, public: bool = False, owner: str = "") -> Project:
        """`owner`, if a user, becomes the project's administrator."""
        check_project_name(name)
        with self._accounts.change() as changes:
            view = self.view
            if name in view.projects:
                raise NameTaken(f"project {name} already exists")
            members: dict[str, Role] = {owner: "admin"} if owner in view.users else {}
            number = self._accounts.next_id(changes, "project")
            at = self._accounts.clock()
            project = Project(name, public, members, id=number, created=at, owner=owner)
            changes[("project", name)] = pack_account(project)
        self._publish_change(f"project {name} added, {'public' if public else 'private'}")
        return project

    def set_project(self, name: str, *, public: bool) -> None:
        """Open a project to everyone for pulls, or close it. Raises NoSuchName."""
        with self._accounts.change() as changes:
            project = _require(self.view.projects, name, "project")
            changes[("project", name)] = pack_account(replace(project, public=public))
        self._publish_change(f"project {name} made {'public' if public else 'private'}")

    def remove_project(self, name: str) -> None:
        """Also removes its robots. Its repositories stay, for administrators only: the name is kept
        so that they do not fall to an enclosing project, which may be public.
        """
        with self._accounts.change() as changes:
            view = self.view
            project = _require(view.projects, name, "project")
            changes[("project", name)] = pack_account(
                Project(name, id=project.id, created=project.created, removed=True)
            )
            for robot in view.robots.values():
                if robot.project == name:
                    self._drop_robot(changes, robot)
        self._publish_change(f"project {name} removed")

    def set_member(self, project: str, user: str, role: Role | None) -> None:
        """Set a user's role in a project; None removes the member."""
        if role is not None and role not in ROLES:
            raise UsageError(
                f"unknown role {role!r}", code="account-invalid", hint=f"roles: {', '.join(ROLES)}"
            )
        with self._accounts.change() as changes:
            view = self.view
            stored = _require(view.projects, project, "project")
            _require(view.users, user, "user")
            members = {key: value for key, value in stored.members.items() if key != user}
            if role is not None:
                members[user] = role
            changes[("project", project)] = pack_account(replace(stored, members=members))
        self._publish_change(f"{user} is {role or 'no member'} in project {project}")

    def add_robot(self, options: RobotOptions) -> tuple[Robot, str]:
        """Create a robot; returns it with its secret."""
        check_robot_options(options)
        secret = generate_secret()
        login = self._accounts.robot_prefix().login(options.project, options.name)
        with self._accounts.change() as changes:
            view, now = self.view, self._accounts.clock()
            if options.project:
                _require(view.projects, options.project, "project")
            if login in view.logins or login in view.users:
                raise NameTaken(f"account {login} already exists")
            robot = Robot(
                self._accounts.next_id(changes, "robot"),
                options.name,
                login,
                options.project,
                options.permissions,
                (StoredSecret(digest_secret(secret), now),),
                options.description,
                options.disabled,
                options.duration,
                now + options.duration * _DAY_S if options.duration > 0 else 0.0,
                options.networks,
                self._actor,
                now,
                now,
            )
            changes[("robot", str(robot.id))] = pack_account(robot)
        self._publish_change(f"robot {login} added")
        return robot, secret

    def set_robot(self, number: int, options: RobotOptions) -> Robot:
        """Change everything but name, project and secrets; the duration counts from the
        creation.
        """
        check_robot_options(options)
        with self._accounts.change() as changes:
            robot = _require(self.view.robots, number, "robot")
            changed = replace(
                robot,
                permissions=options.permissions,
                description=options.description,
                disabled=options.disabled,
                duration=options.duration,
                expires=robot.created + options.duration * _DAY_S if options.duration > 0 else 0.0,
                networks=options.networks,
                updated=self._accounts.clock(),
            )
            changes[("robot", str(number))] = pack_account(changed)
        self._publish_change(f"robot {robot.login} changed")
        return changed

    def rotate_robot(self, number: int, *, overlap_s: float = 0.0) -> str:
        """Generate a new secret; the previous one stays valid for `overlap_s` seconds, older ones
        end.
        """
        secret = generate_secret()
        with self._accounts.change() as changes:
            robot = _require(self.view.robots, number, "robot")
            now = self._accounts.clock()
            newest = max(robot.secrets, key=lambda secret: secret.created)
            before = (replace(newest, expires=now + overlap_s),) if overlap_s > 0 else ()
            secrets = (*before, StoredSecret(digest_secret(secret), now))
            changed = replace(robot, secrets=secrets, updated=now)
            changes[("robot", str(number))] = pack_account(changed)
        self._publish_change(f"robot {robot.login} got a new secret, overlap {overlap_s:.0f} s")
        return secret

    def remove_robot(self, number: int) -> None:
        """Raises NoSuchName."""
        with self._accounts.change() as changes:
            robot = _require(self.view.robots, number, "robot")
            self._drop_robot(changes, robot)
        self._publish_change(f"robot {robot.login} removed")

    def _drop_robot(self, changes: Changes, robot: Robot) -> None:
        changes[("robot", str(robot.id))] = None
        changes[("used", robot.login)] = None

    def _change_user(self, name: str, words: str, **fields: Any) -> None:
        with self._accounts.change() as changes:
            view = self.view
            changed = replace(_require(view.users, name, "user"), **fields)
            if changed.disabled or not changed.admin:
                _check_administrator(view, name)
            changes[("user", name)] = pack_account(changed)
            if changed.disabled or "password" in fields:
                revoke_refresh(self._accounts, changes, name)
        self._publish_change(f"user {name} {words}")

    def _publish_change(self, message: str) -> None:
        self._publish(
            NodeEvent("account", actor=self._actor, address=self._address, message=message)
        )


def _check_administrator(view: AccountsView, without: str) -> None:
    """Raises UsageError if no administrator would be left."""
    left = (user for user in view.users.values() if user.admin and not user.disabled)
    if view.users[without].admin and all(user.name == without for user in left):
        raise UsageError(f"{without} is the last administrator", code="account-invalid")


def _require(known: Mapping[_K, _V], key: _K, what: str) -> _V:
    account = known.get(key)
    if account is None:
        raise NoSuchName(f"no such {what}: {key}", hint=f"`shipline registry {what} ls` lists them")
    return account
