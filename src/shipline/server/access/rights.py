"""What an account may do: one pure question over the view of all accounts."""

from __future__ import annotations

from shipline.server.access.accounts import ROLE_ACTIONS, Account, Project, Robot, User, fits
from shipline.server.access.directory import View
from shipline.server.identity import Action


def allowed(
    view: View,
    account: Account | None,
    action: Action,
    repository: str,
    tag: str = "",
    *,
    anonymous: bool = True,
) -> bool:
    """Whether `account` (None: nobody) may do `action`, with `tag` for that name of a manifest.

    `anonymous` is whether public projects are open to those without an account. A repository that
    belongs to no project is private: administrators and robots of the system reach it.
    """
    project = view.project(repository)
    if action == "pull" and project is not None and project.public:
        return account is not None or anonymous
    match account:
        case None:
            return False
        case User():
            return account.admin or _member_may(account, project, action)
        case Robot():
            return _robot_may(view, account, project, action, repository, tag)


def administers(view: View, account: Account | None, project: str) -> bool:
    """Whether the account may change members and robots of a project ("" is the system)."""
    if not isinstance(account, User):
        return False
    found = view.projects.get(project)
    return account.admin or (found is not None and found.members.get(account.name) == "admin")


def sees(view: View, account: Account | None, project: Project) -> bool:
    """Whether the project exists for this account."""
    if project.public:
        return True
    if isinstance(account, User):
        return account.admin or account.name in project.members
    return isinstance(account, Robot) and any(
        entry.namespace in ("*", project.name) for entry in account.permissions
    )


def _member_may(user: User, project: Project | None, action: Action) -> bool:
    role = None if project is None else project.members.get(user.name)
    return role is not None and action in ROLE_ACTIONS[role]


def _robot_may(
    view: View,
    robot: Robot,
    project: Project | None,
    action: Action,
    repository: str,
    tag: str,
) -> bool:
    """A robot of a project stays in it, whatever its permissions say."""
    name = None if project is None else project.name
    if robot.project and robot.project != name:
        return False
    return any(
        entry.namespace in ("*", name)
        and action in entry.actions
        and fits(entry.repositories, repository)
        and (not tag or fits(entry.tags, tag))
        for entry in robot.permissions
    )
