"""Pages about the node as a whole, for its operators: retention, regions, the audit log."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from shipline.server.access import recent_audit
from shipline.server.http import Pool, Request, Response, Route
from shipline.server.pages.lists import PAGE
from shipline.server.pages.site import Site, first, redirect
from shipline.server.problems import Problem

_EXAMINED = 20_000  # events of the audit log that a search looks at
_KINDS = ["push", "pull", "delete", "untag", "mount", "refused", "login", "account", "collect"]
_BEHIND_S = 60.0  # a follower that is no further behind is in step


def operation_page_routes(site: Site) -> tuple[Route, ...]:
    pages = OperationPages(site)
    return (
        site.route("/-/retention", pool=Pool.DISK, GET=pages.retention, POST=pages.retain),
        site.route("/-/regions", pool=Pool.DISK, GET=pages.regions),
        site.route("/-/audit", pool=Pool.DISK, GET=pages.audit),
    )


class OperationPages:
    """All public methods are handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._node = site.node
        self._previewed = 0.0  # when the last preview began

    def retention(self, request: Request) -> Response:
        """The rules, and what the last run, or the preview of one, decided."""
        self._site.require_operator(request)
        job = self._node.retention_job
        state = None if job is None else job.state
        decisions = list((state.result if state is not None else None) or ())
        decisions.sort(key=lambda one: (one["kept"], one["repository"], one["tag"]))
        start = _number(request, "after")
        last = start + PAGE
        return self._site.page(
            request,
            "retention.html",
            "Retention",
            rules=self._node.retention,
            state=state,
            previewed=state is not None and state.began == self._previewed,
            decisions=decisions[start:last],
            removed=sum(not one["kept"] for one in decisions),
            every=len(decisions),
            next=f"/-/retention?after={last}" if len(decisions) > last else "",
        )

    def retain(self, request: Request) -> Response:
        """Starts a preview, or the run whose preview the form has shown."""
        principal = self._site.require_operator(request)
        fields, job = self._site.form(request), self._node.retention_job
        if job is None or not self._node.retention:
            raise Problem(404, "UNSUPPORTED", "This registry has no rules for retention.")
        if first(fields, "do") == "preview":
            self._previewed = job.begin({"dry_run": True}, principal.actor).began
        elif job.state.running or first(fields, "seen") != str(job.state.began):
            raise Problem(412, "DENIED", "Another run has begun since the preview. Look again.")
        else:
            job.begin({}, principal.actor)
        return redirect("/-/retention")

    def regions(self, request: Request) -> Response:
        self._site.require_operator(request)
        if self._node.regions is None:
            raise Problem(404, "UNSUPPORTED", "This registry keeps no journal: it is one region.")
        limits = {
            section.name: section.max_lag.seconds
            for section in self._node.replications
            if section.max_lag is not None
        }
        states = self._node.regions()
        behind = [one for one in states if one.seconds > limits.get(one.name, _BEHIND_S)]
        failing = [one for one in states if one.error]
        return self._site.page(
            request,
            "regions.html",
            "Regions",
            states=states,
            behind=behind,
            failing=failing,
            limits=limits,
        )

    def audit(self, request: Request) -> Response:
        """The newest events; a search looks at the last _EXAMINED."""
        self._site.require_operator(request)
        if self._node.accounts is None:
            raise Problem(404, "UNSUPPORTED", "This registry has no accounts, and no audit log.")
        search = (request.parameter("q") or "").strip().lower()[:255]
        kind, start = request.parameter("kind") or "", _number(request, "after")
        events = islice(recent_audit(self._node.accounts.data), _EXAMINED)
        found = (
            event
            for event in events
            if kind in ("", event.get("kind")) and (not search or _mentions(event, search))
        )
        rows = [_event(event) for event in islice(found, start, start + PAGE + 1)]
        query = urlencode({"q": search, "kind": kind, "after": start + PAGE})
        return self._site.page(
            request,
            "audit.html",
            "Audit",
            rows=rows[:PAGE],
            search=search,
            kind=kind,
            kinds=[("", "all"), *((one, one) for one in _KINDS)],
            examined=_EXAMINED,
            next=f"/-/audit?{query}" if len(rows) > PAGE else "",
        )


def _mentions(event: dict[str, Any], search: str) -> bool:
    return any(search in str(value).lower() for value in event.values())


def _event(event: dict[str, Any]) -> dict[str, Any]:
    """All that the page shows, also of events that lack some of it."""
    at = str(event.get("at", "")).replace("Z", "+00:00")
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        moment = None
    names = ("kind", "actor", "address", "repository", "digest", "message")
    texts = {name: str(event.get(name, "")) for name in names}
    return {**texts, "at": moment, "tags": [str(tag) for tag in event.get("tags") or ()]}


def _number(request: Request, name: str) -> int:
    text = (request.parameter(name) or "0")[:7]
    return int(text) if text.isascii() and text.isdecimal() else 0
