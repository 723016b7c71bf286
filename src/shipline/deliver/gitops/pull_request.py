"""Pull requests on GitHub and merge requests on GitLab, over their REST APIs: one for each app and
environment, kept up to date in place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

from shipline.deliver.gitops.deployment import Deployed
from shipline.deliver.rest import call_json, expecting_api
from shipline.errors import AuthError, UsageError
from shipline.git import GitError, PushRefused, RemoteBranch
from shipline.registry.http import HttpClient
from shipline.registry.request import Url

_REMOTE = re.compile(
    r"(?:[a-z+]+://(?:[^@/]*@)?|[^@/]+@)([^/:]+)(?::[0-9]+(?=/))?[/:](.+?)(?:\.git)?/?\Z"
)


@dataclass(frozen=True, slots=True)
class Forge:
    """The API of the server at `api`, for one repository there."""

    http: HttpClient
    api: str
    project: str
    token: str = field(repr=False)

    @classmethod
    def of(
        cls, http: HttpClient, remote: str, environ: Mapping[str, str], *, api: str = ""
    ) -> Self:
        """The API for a remote. Its address is `api`, that of the CI job that runs on the server,
        or follows from the host. Raises UsageError if none is known, AuthError without a token.
        """
        match = _REMOTE.match(remote)
        if match is None:
            raise UsageError(
                "pull requests need a repository on GitHub or GitLab, not a path",
                code="pull-request-impossible",
                hint="set `api` to the URL of the server's API, and `repository` to a URL",
            )
        host, project = match[1].lower(), match[2]
        api = (api or _api_of(host, environ)).rstrip("/")
        names = ("GITLAB_TOKEN",) if _is_gitlab(api) else ("GITHUB_TOKEN", "GH_TOKEN")
        token = next((environ[name] for name in names if environ.get(name)), "")
        if not token:
            raise AuthError(
                f"pull requests on {host} need {' or '.join(names)}",
                code="pull-request-token",
                host=host,
            )
        return cls(http, api, project, token)

    def propose(self, head: str, base: str, title: str, body: str) -> str:
        """Open a request to merge `head` into `base`, or bring the open one up to date; returns its
        address. Raises AuthError, RegistryError.
        """
        gitlab = _is_gitlab(self.api)
        if gitlab:
            root = f"/projects/{quote(self.project, safe='')}/merge_requests"
            query = (("state", "opened"), ("source_branch", head), ("target_branch", base))
            texts = {"title": title, "description": body}
            new = {"source_branch": head, "target_branch": base, "remove_source_branch": True}
        else:
            root = f"/repos/{self.project}/pulls"
            owner = self.project.partition("/")[0]
            query = (("state", "open"), ("head", f"{owner}:{head}"), ("base", base))
            texts = {"title": title, "body": body}
            new = {"head": head, "base": base}
        hint = "set `api` to the URL of the server's API"
        with expecting_api("GitLab" if gitlab else "GitHub", self.api, hint):
            if there := self._call("GET", root, query=query):
                number = there[0]["iid" if gitlab else "number"]
                done = self._call("PUT" if gitlab else "PATCH", f"{root}/{number}", texts)
            else:
                done = self._call("POST", root, {**texts, **new})
            return str(done["web_url" if gitlab else "html_url"])

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        return call_json(
            self.http,
            Url.parse(self.api + path).with_query(*query),
            {"Authorization": f"Bearer {self.token}"},
            operation="proposing the change",
            method=method,
            body=body,
        )


def propose(branch: RemoteBranch, forge: Forge, prepared: Deployed) -> tuple[str, str]:
    """Push the commit of `prepared` to a branch of its app and environment, and open a request to
    merge it, or update the one that is open. Returns the branch and the request's address.
    """
    deployment = prepared.deployment
    head = f"shipline/{deployment.environment}/{re.sub('[^A-Za-z0-9._-]', '-', deployment.app)}"
    if not branch.push(prepared.commit, to=head, replaces=branch.tip_of(head)):
        raise PushRefused(
            f"{branch.shown}: another run moved {head} meanwhile", hint="deploy again"
        )
    title, _, rest = deployment.message.partition("\n")
    return head, forge.propose(head, branch.name, title, f"```\n{rest.strip()}\n```\n")


def _is_gitlab(api: str) -> bool:
    return "/api/v4" in api


def _api_of(host: str, environ: Mapping[str, str]) -> str:
    def in_ci(server: str, api: str) -> str:
        name = environ.get(server, "").partition("://")[2].partition("/")[0].partition(":")[0]
        return environ.get(api, "") if name.lower() == host else ""

    if host == "github.com":
        return "https://api.github.com"
    if api := in_ci("GITHUB_SERVER_URL", "GITHUB_API_URL") or in_ci(
        "CI_SERVER_URL", "CI_API_V4_URL"
    ):
        return api
    if host.startswith("gitlab."):
        return f"https://{host}/api/v4"
    raise GitError(
        f"it is not known where the API of {host} is",
        code="pull-request-impossible",
        hint="set `api`: https://HOST/api/v3 for GitHub, https://HOST/api/v4 for GitLab",
    )
