"""Changes of accounts: what the command line and Harbor's API do, checked and written down.

Every function takes effect at once, also at a node that runs in another process, and tells the
listeners who did it. A secret is returned by the function that made it and never again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
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
    check_user_name,
    check_wish,
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
from shipline.server.journal import NodeEvent

_DAY_S = 86400.0
_K = TypeVar("_K")
_V = TypeVar("_V")


class NoSuchName(UsageError):
    """There is no account, project or robot of that name."""


class NameTaken(UsageError):
    """There is one of that name already."""


class Administration:
    """Changes made by one actor from one address."""

    def __init__(
        self,
        directory: AccountStore,
        *,
        actor: str,
        address: str = "",
        notice: Callable[[NodeEvent], None] = lambda event: None,
    ) -> None:
        self._directory = directory
        self._actor, self._address, self._notice = actor, address, notice

    @property
    def view(self) -> AccountsView:
        return AccountsView.of(self._directory.records)

    def add_user(self, name: str, password: str, *, admin: bool = False) -> User:
        """Raises UsageError for a name that is taken or a password that is too short."""
        check_user_name(name)
        kept = hash_password(check_password(password))
        with self._directory.change() as changes:
            if name in self.view.users:
                raise NameTaken(f"there is a user {name} already")
            number = self._directory.number(changes, "user")
            user = User(name, kept, admin, id=number, created=self._directory.clock())
            changes[("user", name)] = pack_account(user)
        self._tell(f"user {name} added" + (" as administrator" if admin else ""))
        return user

    def set_password(self, name: str, password: str) -> None:
        """Also ends the user's refresh tokens."""
        kept = hash_password(check_password(password))
        self._change_user(name, "got a new password", password=kept)

    def set_user(self, name: str, **fields: Any) -> None:
        """Change `admin` or `disabled`; the last administrator stays one."""
        words = ", ".join(f"{key}={value}" for key, value in fields.items())
        self._change_user(name, f"changed: {words}", **fields)

    def remove_user(self, name: str) -> None:
        with self._directory.change() as changes:
            view = self.view
            _found(view.users, name, "user")
            _check_administrator(view, name)
            changes[("user", name)] = None
            changes[("used", name)] = None
            revoke_refresh(self._directory, changes, name)
            for project in view.projects.values():
                if name in project.members:
                    members = {key: role for key, role in project.members.items() if key != name}
                    changes[("project", project.name)] = pack_account(
                        replace(project, members=members)
                    )
        self._tell(f"user {name} removed")

    def revoke(self, name: str) -> int:
        """End all refresh tokens of an account; returns their number."""
        with self._directory.change() as changes:
            number = revoke_refresh(self._directory, changes, name)
        self._tell(f"{number} refresh tokens of {name} revoked")
        return number

    def rotate_key(self, *, now: bool = False) -> str:
        """Sign tokens with a new key from now on; returns its id. With `now`, what older keys
        signed ends at once.
        """
        kid = rotate(self._directory, now=now)
        ended = ", and older ones are worth nothing" if now else ""
        self._tell(f"tokens are signed with a new key, {kid}{ended}")
        return kid

    def add_project(self, name: str, *, public: bool = False, owner: str = "") -> Project:
        """`owner`, if it is a user, becomes administrator of the project."""
        check_project_name(name)
        with self._directory.change() as changes:
            view = self.view
            if name in view.projects:
                raise NameTaken(f"there is a project {name} already")
            members: dict[str, Role] = {owner: "admin"} if owner in view.users else {}
            number = self._directory.number(changes, "project")
            at = self._directory.clock()
            project = Project(name, public, members, id=number, created=at, owner=owner)
            changes[("project", name)] = pack_account(project)
        self._tell(f"project {name} added, {'public' if public else 'private'}")
        return project

    def set_project(self, name: str, *, public: bool) -> None:
        with self._directory.change() as changes:
            project = _found(self.view.projects, name, "project")
            changes[("project", name)] = pack_account(replace(project, public=public))
        self._tell(f"project {name} made {'public' if public else 'private'}")

    def remove_project(self, name: str) -> None:
        """Its robots go with it; its repositories stay, for administrators: the name is kept, so
        that they do not fall to a project around them, which may be public.
        """
        with self._directory.change() as changes:
            view = self.view
            found = _found(view.projects, name, "project")
            changes[("project", name)] = pack_account(
                Project(name, id=found.id, created=found.created, removed=True)
            )
            for robot in view.robots.values():
                if robot.project == name:
                    self._drop_robot(changes, robot)
        self._tell(f"project {name} removed")

    def set_member(self, project: str, user: str, role: Role | None) -> None:
        """Give a user a role in a project, or take it away (None)."""
        if role is not None and role not in ROLES:
            raise UsageError(f"there is no role {role!r}", hint=f"roles: {', '.join(ROLES)}")
        with self._directory.change() as changes:
            view = self.view
            found = _found(view.projects, project, "project")
            _found(view.users, user, "user")
            members = {key: value for key, value in found.members.items() if key != user}
            if role is not None:
                members[user] = role
            changes[("project", project)] = pack_account(replace(found, members=members))
        self._tell(f"{user} is {role or 'no member'} in project {project}")

    def add_robot(self, wish: RobotOptions) -> tuple[Robot, str]:
        """A new robot and its secret, which cannot be read again."""
        check_wish(wish)
        secret = generate_secret()
        login = self._directory.prefix().login(wish.project, wish.name)
        with self._directory.change() as changes:
            view, now = self.view, self._directory.clock()
            if wish.project:
                _found(view.projects, wish.project, "project")
            if login in view.logins or login in view.users:
                raise NameTaken(f"there is an account {login} already")
            robot = Robot(
                self._directory.number(changes, "robot"),
                wish.name,
                login,
                wish.project,
                wish.permissions,
                (StoredSecret(digest_secret(secret), now),),
                wish.description,
                wish.disabled,
                wish.duration,
                now + wish.duration * _DAY_S if wish.duration > 0 else 0.0,
                wish.networks,
                self._actor,
                now,
                now,
            )
            changes[("robot", str(robot.id))] = pack_account(robot)
        self._tell(f"robot {login} added")
        return robot, secret

    def set_robot(self, number: int, wish: RobotOptions) -> Robot:
        """Everything but name, project and secrets; a duration counts from the creation."""
        check_wish(wish)
        with self._directory.change() as changes:
            robot = _found(self.view.robots, number, "robot")
            changed = replace(
                robot,
                permissions=wish.permissions,
                description=wish.description,
                disabled=wish.disabled,
                duration=wish.duration,
                expires=robot.created + wish.duration * _DAY_S if wish.duration > 0 else 0.0,
                networks=wish.networks,
                updated=self._directory.clock(),
            )
            changes[("robot", str(number))] = pack_account(changed)
        self._tell(f"robot {robot.login} changed")
        return changed

    def rotate_robot(self, number: int, *, overlap_s: float = 0.0) -> str:
        """A new secret; the one before stays valid for `overlap_s` seconds, older ones end."""
        secret = generate_secret()
        with self._directory.change() as changes:
            robot = _found(self.view.robots, number, "robot")
            now = self._directory.clock()
            newest = max(robot.secrets, key=lambda one: one.created)
            before = (replace(newest, expires=now + overlap_s),) if overlap_s > 0 else ()
            secrets = (*before, StoredSecret(digest_secret(secret), now))
            changed = replace(robot, secrets=secrets, updated=now)
            changes[("robot", str(number))] = pack_account(changed)
        self._tell(f"robot {robot.login} got a new secret, overlap {overlap_s:.0f} s")
        return secret

    def remove_robot(self, number: int) -> None:
        with self._directory.change() as changes:
            robot = _found(self.view.robots, number, "robot")
            self._drop_robot(changes, robot)
        self._tell(f"robot {robot.login} removed")

    def _drop_robot(self, changes: Changes, robot: Robot) -> None:
        changes[("robot", str(robot.id))] = None
        changes[("used", robot.login)] = None

    def _change_user(self, name: str, words: str, **fields: Any) -> None:
        with self._directory.change() as changes:
            view = self.view
            changed = replace(_found(view.users, name, "user"), **fields)
            if changed.disabled or not changed.admin:
                _check_administrator(view, name)
            changes[("user", name)] = pack_account(changed)
            if changed.disabled or "password" in fields:
                revoke_refresh(self._directory, changes, name)
        self._tell(f"user {name} {words}")

    def _tell(self, message: str) -> None:
        self._notice(
            NodeEvent("account", actor=self._actor, address=self._address, message=message)
        )


def _check_administrator(view: AccountsView, without: str) -> None:
    """Somebody must be able to undo this."""
    left = (user for user in view.users.values() if user.admin and not user.disabled)
    if view.users[without].admin and all(user.name == without for user in left):
        raise UsageError(f"{without} is the last administrator")


def _found(known: Mapping[_K, _V], key: _K, what: str) -> _V:
    found = known.get(key)
    if found is None:
        raise NoSuchName(f"there is no {what} {key}")
    return found
