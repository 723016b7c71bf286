"""Pages about accounts: one's own password, users, robots. Rights are those of the API: users are
for administrators, robots also for administrators of their project. A secret is shown once.
"""

from __future__ import annotations

from typing import Any

from shipline.errors import UsageError
from shipline.server.access.accounts import Permission, Robot, RobotAccess, RobotOptions, User
from shipline.server.access.administration import NoSuchName
from shipline.server.http import Request, Response, Route
from shipline.server.pages.site import Form, Site, first, redirect, sentence
from shipline.server.problems import Problem

_MAY = ("pull", "create", "push", "delete")
_LONGEST_OVERLAP_S = 90 * 86_400


def account_page_routes(site: Site) -> tuple[Route, ...]:
    users, robots = UserPages(site), RobotPages(site)
    return (
        site.route("/-/account", GET=users.own, POST=users.change_password),
        site.route("/-/users", GET=users.listing, POST=users.add),
        site.route("/-/users/(?P<user>[^/]+)", GET=users.show, POST=users.change),
        site.route("/-/robots", GET=robots.listing, POST=robots.add),
        site.route("/-/robots/(?P<robot>[0-9]{1,9})", GET=robots.show, POST=robots.change),
    )


class UserPages:
    """All public methods are handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def own(self, request: Request, error: str = "") -> Response:
        user = self._site.user(request)
        view = self._site.accounts().view()
        roles = sorted(
            (project.name, project.members[user.name])
            for project in view.projects.values()
            if user.name in project.members
        )
        values = {"user": user, "roles": roles, "error": error}
        status = 400 if error else 200
        return self._site.page(request, "account.html", "Account", status=status, **values)

    def change_password(self, request: Request) -> Response:
        """Ends all logins of the account, this one too."""
        user, fields = self._site.user(request), self._site.form(request)
        password = fields.get("password", ("",))[0]
        if password != fields.get("again", ("",))[0]:
            return self.own(request, "The two new passwords differ.")
        try:
            current = fields.get("current", ("",))[0]
            self._site.node.authenticator.sign_in(user.name, current, request.address)
            self._site.administration(request).set_password(user.name, password)
        except Problem as problem:
            return self.own(request, problem.message)
        except UsageError as refused:
            return self.own(request, sentence(refused))
        return redirect("/-/login")

    def listing(self, request: Request, error: str = "", typed: Form | None = None) -> Response:
        self._site.require_operator(request)
        store = self._site.accounts()
        users = sorted(store.view().users.values(), key=lambda user: user.name)
        search = (request.parameter("q") or "").strip().lower()
        rows = [(user, store.last_used(user.name)) for user in users if search in user.name]
        name = first(typed or {}, "name")
        values = {"rows": rows, "search": search, "error": error, "name": name}
        status = 400 if error else 200
        return self._site.page(request, "users.html", "Users", status=status, **values)

    def add(self, request: Request) -> Response:
        self._site.require_operator(request)
        fields = self._site.form(request)
        password, admin = fields.get("password", ("",))[0], first(fields, "admin") == "1"
        try:
            user = self._site.administration(request).add_user(
                first(fields, "name"), password, admin=admin
            )
        except UsageError as refused:
            return self.listing(request, sentence(refused), fields)
        return redirect(f"/-/users/{user.name}")

    def show(self, request: Request, user: str, error: str = "") -> Response:
        self._site.require_operator(request)
        stored, store = self._user(user), self._site.accounts()
        status = 400 if error else 200
        values = {"user": stored, "used": store.last_used(stored.name), "error": error}
        return self._site.page(request, "user.html", "Users", status=status, **values)

    def change(self, request: Request, user: str) -> Response:
        self._site.require_operator(request)
        fields, name = self._site.form(request), self._user(user).name
        administration = self._site.administration(request)
        try:
            match first(fields, "do"):
                case "password":
                    administration.set_password(name, fields.get("password", ("",))[0])
                case "admin" | "no-admin" as change:
                    administration.set_user(name, admin=change == "admin")
                case "disable" | "enable" as change:
                    administration.set_user(name, disabled=change == "disable")
                case "remove":
                    administration.remove_user(name)
                    return redirect("/-/users")
                case _:
                    raise Problem(400, "UNSUPPORTED", "The form does not say what to do.")
        except UsageError as refused:
            return self.show(request, user, sentence(refused))
        return redirect(f"/-/users/{name}")

    def _user(self, name: str) -> User:
        user = self._site.accounts().view().users.get(name)
        if user is None:
            raise NoSuchName(f"There is no user {name}.")
        return user


class RobotPages:
    """All public methods are handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def listing(
        self,
        request: Request,
        *,
        error: str = "",
        typed: Form | None = None,
        secret: tuple[str, str] | None = None,
    ) -> Response:
        """`secret` are the login and the new secret of a robot."""
        projects = self._managed(request)
        store = self._site.accounts()
        robots = sorted(store.view().robots.values(), key=lambda robot: (robot.project, robot.name))
        search = (request.parameter("q") or "").strip().lower()
        rows = [
            self._row(robot)
            for robot in robots
            if robot.project in projects and search in robot.login.lower()
        ]
        typed = typed or {"allow": ("pull",), "days": ("90",)}
        fields = ("name", "project", "description", "repositories", "tags", "networks", "days")
        return self._site.page(
            request,
            "robots.html",
            "Robots",
            status=400 if error else 200,
            rows=rows,
            projects=projects,
            search=search,
            error=error,
            typed={name: first(typed, name) for name in fields},
            allowed=typed.get("allow", ()),
            secret=secret,
        )

    def add(self, request: Request) -> Response:
        projects, fields = self._managed(request), self._site.form(request)
        project = first(fields, "project")
        if project not in projects:
            raise Problem(403, "DENIED", f"You do not manage the robots of {project or 'all'}.")
        try:
            robot, secret = self._site.administration(request).add_robot(_options(fields, project))
        except UsageError as refused:
            return self.listing(request, error=sentence(refused), typed=fields)
        return self.listing(request, secret=(robot.login, secret))

    def show(self, request: Request, robot: str, error: str = "") -> Response:
        stored = self._robot(request, robot)
        values = {"row": self._row(stored), "robot": stored, "error": error}
        status = 400 if error else 200
        return self._site.page(request, "robot.html", "Robots", status=status, **values)

    def change(self, request: Request, robot: str) -> Response:
        """Refuses a form of a page that showed the robot as it no longer is."""
        stored, fields = self._robot(request, robot), self._site.form(request)
        if first(fields, "seen") != str(stored.updated):
            raise Problem(412, "DENIED", f"{stored.login} was changed meanwhile. Look again.")
        administration = self._site.administration(request)
        try:
            match first(fields, "do"):
                case "rotate":
                    overlap = _seconds(first(fields, "overlap"))
                    secret = administration.rotate_robot(stored.id, overlap_s=overlap)
                    return self.listing(request, secret=(stored.login, secret))
                case "disable" | "enable" as change:
                    administration.set_robot(stored.id, _kept(stored, change == "disable"))
                case "remove":
                    administration.remove_robot(stored.id)
                    return redirect("/-/robots")
                case _:
                    raise Problem(400, "UNSUPPORTED", "The form does not say what to do.")
        except UsageError as refused:
            return self.show(request, robot, sentence(refused))
        return redirect(f"/-/robots/{stored.id}")

    def _managed(self, request: Request) -> list[str]:
        projects = self._site.managed_projects(request)
        if not projects:
            raise Problem(403, "DENIED", "You administer no project.")
        return projects

    def _robot(self, request: Request, number: str) -> Robot:
        """One that the visitor may manage; any other does not exist for him."""
        stored = self._site.accounts().view().robots.get(int(number))
        if stored is None or stored.project not in self._managed(request):
            raise NoSuchName("There is no such robot.")
        return stored

    def _row(self, robot: Robot) -> dict[str, Any]:
        store = self._site.accounts()
        now = store.clock()
        overlap = max((one.expires for one in robot.secrets if one.expires > now), default=0.0)
        return {
            "robot": robot,
            "may": [_described(entry) for entry in robot.permissions],
            "used": store.last_used(robot.login),
            "usable": robot.usable(now),
            "soon": bool(robot.expires) and robot.expires - now < 7 * 86_400,
            "overlap": overlap,
        }


def _options(fields: Form, project: str) -> RobotOptions:
    """Raises UsageError."""
    allow = [action for action in _MAY if action in fields.get("allow", ())]
    days = first(fields, "days")
    if days and not (days.isascii() and days.isdecimal() and len(days) < 6):
        raise UsageError(f"the number of days is not a number: {days[:20]!r}", code="form-invalid")
    if not allow:
        raise UsageError(
            "a robot must be allowed something",
            code="form-invalid",
            hint="tick at least one of the boxes",
        )
    permission = Permission(
        project or "*",
        tuple(RobotAccess("repository", action) for action in allow),
        repositories=tuple(first(fields, "repositories").split()),
        tags=tuple(first(fields, "tags").split()),
    )
    return RobotOptions(
        first(fields, "name"),
        project,
        (permission,),
        first(fields, "description")[:1000],
        False,
        int(days) if days else -1,
        tuple(first(fields, "networks").split()),
    )


def _kept(robot: Robot, disabled: bool) -> RobotOptions:
    return RobotOptions(
        robot.name,
        robot.project,
        robot.permissions,
        robot.description,
        disabled,
        robot.duration,
        robot.networks,
    )


def _seconds(text: str) -> float:
    if not (text.isascii() and text.isdecimal() and len(text) < 9):
        raise UsageError("the overlap is not a number of seconds", code="form-invalid")
    return float(min(int(text), _LONGEST_OVERLAP_S))


def _described(entry: Permission) -> tuple[str, str]:
    """What a permission allows, and where."""
    names = [
        one.action if one.resource == "repository" else f"{one.resource}: {one.action}"
        for one in entry.access
    ]
    where = ", ".join(entry.repositories) or ("all" if entry.namespace == "*" else entry.namespace)
    return ", ".join(names), where + (f", tags {', '.join(entry.tags)}" if entry.tags else "")
