"""Which project a request of Harbor's API means."""

from __future__ import annotations

from shipline.server.access.accounts import Project
from shipline.server.access.administration import Unknown
from shipline.server.access.directory import Directory
from shipline.server.access.harbor_json import account_of, refusal
from shipline.server.access.rights import administers, sees
from shipline.server.http import Request


def one_project(text: str, projects: list[Project]) -> Project:
    """By name or number. Raises Unknown, also for one that may not be seen."""
    number = int(text) if text.isdecimal() and len(text) < 10 else None
    for project in projects:
        if project.name == text or project.id == number:
            return project
    raise Unknown(f"there is no project {text}")


def managed_project(directory: Directory, request: Request, text: str) -> Project:
    """A project that the client administers. Raises Problem 403 for another that it sees."""
    view, account = directory.view(), account_of(directory, request)
    found = one_project(text, [one for one in view.projects.values() if sees(view, account, one)])
    if not administers(view, account, found.name):
        raise refusal(403, f"{account.login} does not administer {found.name}")
    return found
