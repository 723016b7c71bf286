"""The pages about releases and environments: the board with its actions, releases, one release, two
beside each other, and drift.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from shipline.deliver.drift import find_environment_drift
from shipline.deliver.gitops import Deployment
from shipline.deliver.promotion import EnvironmentState, read_states
from shipline.deliver.promotion.board import committed_at, row
from shipline.errors import NotFound, ShiplineError, UsageError
from shipline.gates import SUMMARY_TYPE
from shipline.lru import Lru
from shipline.oci import Platform
from shipline.pages import render_part
from shipline.ship.runs import Runs
from shipline.tasks import TaskGroup, time_limit
from shipline.ui.acting import ACTIONS, BoardAction, BoardDecision, choices, commit_of, reasons_of
from shipline.ui.app import PageChange, PageRequest, PageResponse, PageRoute
from shipline.ui.board import BoardCell, EnvironmentBoard, read_board
from shipline.ui.compare import comparison, platforms, scans_of, vulnerability_changes
from shipline.ui.lookups import Fact, Lookups
from shipline.ui.project import OpenProject, digests_of, digests_word, new_policy, open_project
from shipline.ui.registry_evidence import OUTCOMES, evidence, gates_of, is_there, waivers
from shipline.ui.releases import (
    VERBS,
    KnownRelease,
    all_releases,
    built_releases,
    commit_subject,
    common_names,
    find_release,
    happened,
    missing,
    next_stop,
    stages,
)

States = dict[str, EnvironmentState]
_GIT_S, _DRIFT_S, _LAYERS_S, _ACT_S = 30.0, 20.0, 120.0, 120.0  # longest waits for answers
_EVERY_S, _JUDGED_S, _EVIDENCE_S, _COMPARED_S = 5.0, 10.0, 30.0, 600.0  # how long answers are kept
_DRIFT_SHOWN_S = 600.0  # on the board, after somebody looked
_PAGE = 100  # releases
_AT_ONCE = 8
_REASON = 500  # characters


@dataclass(frozen=True, slots=True)
class DoneDecision:
    """What was done, to be said on the next page."""

    text: str
    commit: str
    address: str


class DeliveryPages:
    """The pages, with what they looked up lately."""

    def __init__(self) -> None:
        self._lookups = Lookups()
        self._outcomes: Lru[str, DoneDecision] = Lru(50)

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute("/board", show=self.board),
            PageRoute("/board/events", follow=self.changes),
            PageRoute("/board/{environment}/{action}", show=self.ask, act=self.act),
            PageRoute("/releases", show=self.releases),
            PageRoute("/releases/{digest}", show=self.release),
            PageRoute("/compare", show=self.compare),
            PageRoute("/regions", show=self.regions),
        )

    def board(self, request: PageRequest) -> PageResponse:
        with open_project(request.workspace) as project:
            states = self._states(project)
            drift = self._lookups.last(("drift",))
            shown = self._board(project, states)
            return request.page(
                "board.html",
                live="/board/events",
                board=shown,
                states=states,
                drift=drift if drift and drift.value is not None else None,
                actions=ACTIONS,
                outcome=self._outcomes.get(request.query.get("done", "")),
            )

    async def changes(self, request: PageRequest) -> AsyncIterator[PageChange]:
        """Cells of the board that are not as they were."""
        before = await asyncio.to_thread(self._cells, request)
        while True:
            await asyncio.sleep(_EVERY_S)
            now = await asyncio.to_thread(self._cells, request)
            for name, html in now.items():
                if before.get(name) not in (html, None):
                    yield PageChange(name, html)
            before = now

    def _cells(self, request: PageRequest) -> dict[str, str]:
        """The HTML of the cells, by their ids; empty while git cannot be asked."""
        try:
            with open_project(request.workspace) as project:
                shown = self._board(project, self._states(project))
        except ShiplineError:
            return {}
        context = {"frame": request.frame(), "actions": ACTIONS}
        return {
            f"env-{cell.name}": render_part("cell.html", "cell", {"cell": cell}, **context)
            for cell in (shown.cells if shown else ())
        }

    def ask(self, request: PageRequest) -> PageResponse:
        self._lookups.forget("states")
        with open_project(request.workspace) as project:
            return self._asked(request, project)

    def act(self, request: PageRequest) -> PageResponse:
        """Do what the form says, for the digests that it was made for."""
        name, action = request.parts["environment"], _action(request)
        with open_project(request.workspace) as project:
            project.delivery.environment(name)
            reason = " ".join(request.form.get("reason", "").split())
            try:
                if problem := _too_long(reason):
                    raise UsageError(problem, code="form-invalid")
                digests = digests_of(request.form.get("seen", ""))
                if not digests:
                    raise UsageError(
                        "the form names no digest", code="form-invalid", hint="load the page again"
                    )
                decision = BoardDecision(digests, reason, request.form.get("back_to", ""))
                with time_limit(_ACT_S):
                    done = action.do(project.delivery, name, decision)
            except ShiplineError as error:
                self._lookups.forget("states")
                return self._asked(request, project, error)
            except TimeoutError as error:
                hint = "look at the board whether it was done"
                return self._asked(
                    request, project, UsageError(str(error), code="form-invalid", hint=hint)
                )
        for kind in ("states", "missing"):
            self._lookups.forget(kind)
        commit, address = commit_of(done)
        if not commit:
            return PageResponse(location="/board")
        made = done if isinstance(done, Deployment) else getattr(done, "deployment", None)
        self._outcomes.put(commit, DoneDecision(made.subject if made else "", commit, address))
        return PageResponse(location=f"/board?done={commit}")

    def _asked(
        self, request: PageRequest, project: OpenProject, error: ShiplineError | None = None
    ) -> PageResponse:
        """The page that asks before something is done, with why it was not done, if it was not."""
        name, action = request.parts["environment"], _action(request)
        delivery = project.delivery
        delivery.environment(name)
        states = self._states(project)
        shown = self._board(project, states)
        cell = next((one for one in shown.cells if one.name == name), None) if shown else None
        subject = _subject(action, cell, request.query.get("of", "")) if cell else None
        judged: Fact[Any] | None = None
        if subject and action.judged and states.value:
            judged = self._lookups.get(
                ("judged", name, digests_word(subject.digests)),
                partial(row, delivery, states.value, name, judged=True),
                kept_s=0.0,
            )
        words = {"version": subject.version if subject else "", "name": name}
        return request.page(
            "decide.html",
            status=409 if error else 200,
            name=name,
            action=action,
            question=action.question.format(**words) if subject else f"{action.verb} in {name}",
            effect=action.effect.format(**words),
            cell=cell,
            subject=subject,
            seen=digests_word(subject.digests) if subject else "",
            judged=judged,
            states=states,
            person=shown.person if shown else "",
            back_to=_targets(action, cell, states.value, name),
            chosen=request.form.get("back_to", ""),
            path=request.path,
            reason=request.form.get("reason", ""),
            reason_problem=_too_long(request.form.get("reason", "")),
            error=error,
            reasons=reasons_of(error) if error else (),
        )

    def releases(self, request: PageRequest) -> PageResponse:
        query, first = request.query.get("q", "").strip(), _number(request.query.get("from", ""))
        with open_project(request.workspace) as project:
            states = self._states(project)
            found = self._releases(project, states)
            if query:
                found = [one for one in found if _mentions(one, query)]
            return request.page(
                "releases.html",
                releases=found[first : first + _PAGE],
                runs=frozenset(Runs(project.delivery.home).ids()),
                total=len(found),
                query=query,
                next=first + _PAGE if len(found) > first + _PAGE else 0,
                states=states,
            )

    def release(self, request: PageRequest) -> PageResponse:
        with open_project(request.workspace) as project:
            states = self._states(project)
            every = self._releases(project, states)
            one = find_release(every, request.parts["digest"])
            if one is None:
                raise NotFound(
                    f"no release has {request.parts['digest'][:80]}",
                    code="page-missing",
                    hint="what was built here or deployed is listed under Releases",
                )
            return request.page(
                "release.html",
                release=one,
                runs=frozenset(Runs(project.delivery.home).ids()),
                subject=commit_subject(project.delivery, one),
                states=states,
                stages=stages(project.delivery, states.value or {}, one),
                happened=happened(states.value or {}, one),
                before=_before(every, one),
                outcomes=OUTCOMES,
                verbs=VERBS,
                waivers=waivers,
                gates_type=SUMMARY_TYPE,
                policy=project.config.trust is not None,
                **self._remote(project, states.value or {}, one),
            )

    def _remote(self, project: OpenProject, states: States, one: KnownRelease) -> dict[str, Any]:
        """What registries say of a release; each fact may be unknown for itself."""
        delivery, get = project.delivery, self._lookups.get
        stop = next_stop(states, delivery, one)
        with TaskGroup(_AT_ONCE) as group:
            found = {
                image: group.start(
                    get,
                    ("evidence", image.name, str(image.digest)),
                    partial(evidence, delivery, image, new_policy(project)),
                    kept_s=_EVIDENCE_S,
                )
                for image in one.images
            }
            digests = digests_word(one.digests)
            gates = group.start(
                get, ("gates", digests), partial(gates_of, delivery, one.images), kept_s=_EVIDENCE_S
            )
            waits = stop and group.start(
                get,
                ("missing", stop, digests),
                partial(missing, delivery, states, stop, one),
                kept_s=_JUDGED_S,
            )
            places = {
                (place, image): group.start(
                    get,
                    ("there", stored.name, str(image.digest)),
                    partial(is_there, delivery, stored),
                    kept_s=_EVIDENCE_S,
                )
                for image in one.images
                for place, stored in project.places_of(image).items()
            }
        return {
            "evidence": {image: task.result() for image, task in found.items()},
            "gates": gates.result(),
            "missing": waits.result() if waits else None,
            "places": {where: task.result() for where, task in places.items()},
        }

    def compare(self, request: PageRequest) -> PageResponse:
        words = request.query.get("from", "").strip(), request.query.get("to", "").strip()
        with open_project(request.workspace) as project:
            every = self._releases(project, self._states(project))
            values: dict[str, Any] = {"difference": None, "platforms": (), "platform": ""}
            errors = ["", ""]
            pair: list[KnownRelease | None] = [None, None]
            for number, word in enumerate(words):
                pair[number] = find_release(every, word) if word else None
                if word and pair[number] is None:
                    errors[number] = f"no release is called {word[:80]}"
            before, after = pair
            if before and after:
                if names := common_names(before, after):
                    values |= self._compared(request, project, before, after, names)
                else:
                    errors[1] = f"it has none of the images of {before.version}"
            return request.page("compare.html", words=words, errors=errors, pair=pair, **values)

    def _compared(
        self,
        request: PageRequest,
        project: OpenProject,
        before: KnownRelease,
        after: KnownRelease,
        names: Sequence[str],
    ) -> dict[str, Any]:
        name = request.query.get("image", "")
        name = name if name in names else names[0]
        pair = before.image(name), after.image(name)
        get, key = self._lookups.get, tuple(str(one.digest) for one in pair)
        common = get(
            ("platforms", name, *key), partial(platforms, project, pair), kept_s=_EVIDENCE_S
        )
        known = common.value or ()
        wanted = request.query.get("platform", "")
        platform = wanted if wanted in known else next(iter(known), "")
        files = request.query.get("files") == "1"
        difference: Fact[Any] | None = None
        if platform:
            difference = get(
                ("difference", name, *key, platform, str(files)),
                partial(comparison, project, pair, Platform.parse(platform), files=files),
                kept_s=_COMPARED_S,
                within_s=_LAYERS_S if files else _DRIFT_S,
            )
        scans = [
            get(
                ("scan", name, str(one.digest)), partial(scans_of, project, one), kept_s=_EVIDENCE_S
            )
            for one in pair
        ]
        both = [one.value[0] for one in scans if one.value]
        return {
            "images": pair,
            "names": names,
            "name": name,
            "platforms": known,
            "common": common,
            "platform": platform,
            "files": files,
            "difference": difference,
            "scans": scans,
            "vulnerabilities": vulnerability_changes(*both) if len(both) == 2 else None,
        }

    def regions(self, request: PageRequest) -> PageResponse:
        with open_project(request.workspace) as project:
            delivery, config = project.delivery, project.config
            states = self._states(project).value or {}
            empty = [name for name, state in states.items() if state.current is None]
            found = self._lookups.get(
                ("drift",),
                partial(
                    find_environment_drift,
                    delivery,
                    {n: one for n, one in delivery.environments.items() if n not in empty},
                    delivery.targets,
                    config.pipeline.in_regions,
                    partial(new_policy, project) if config.trust else None,
                ),
                kept_s=_EVIDENCE_S,
                within_s=_DRIFT_S,
            )
            return request.page(
                "drift.html",
                found=found,
                regions=tuple(config.pipeline.in_regions),
                environments=tuple(delivery.environments),
                empty=empty,
            )

    def _states(self, project: OpenProject) -> Fact[States]:
        if not project.delivery.environments:
            return Fact({}, project.delivery.clock())
        return self._lookups.get(
            ("states", *project.delivery.environments),
            partial(read_states, project.delivery),
            kept_s=_EVERY_S,
            within_s=_GIT_S,
        )

    def _board(self, project: OpenProject, states: Fact[States]) -> EnvironmentBoard | None:
        if not states.value:
            return None
        drift = self._lookups.last(("drift",))
        fresh = drift is not None and project.delivery.clock() - drift.at < _DRIFT_SHOWN_S
        found = drift.value or () if drift and fresh else ()
        return read_board(project.delivery, states.value, self._person(project), found)

    def _person(self, project: OpenProject) -> str:
        """Whom commits here are by; empty if that is not known."""

        def look() -> str:
            section = next(iter(project.delivery.environments.values()))
            with project.delivery.branch(section.gitops) as branch:
                return branch.committer

        return self._lookups.get(("person",), look, kept_s=300.0, within_s=_GIT_S).value or ""

    def _releases(self, project: OpenProject, states: Fact[States]) -> list[KnownRelease]:
        return all_releases(states.value or {}, built_releases(project.delivery))


def _action(request: PageRequest) -> BoardAction:
    action = ACTIONS.get(request.parts["action"])
    if action is None:
        raise NotFound(
            f"nothing is called {request.parts['action'][:80]!r} here", code="page-missing"
        )
    return action


def _subject(action: BoardAction, cell: BoardCell, word: str) -> Deployment | None:
    """What the action is about; of several holds, the one that was chosen."""
    held = next((one for one in cell.holds if digests_word(one.digests) == word), None)
    return held if held and action is ACTIONS["release"] else action.subject(cell)


def _targets(
    action: BoardAction, cell: BoardCell | None, states: States | None, name: str
) -> list[tuple[str, str]]:
    """What a rollback may go back to: words and texts for a choice."""
    if action is not ACTIONS["rollback"] or cell is None or not states:
        return []
    return [
        (digests_word(one.digests), f"{one.version} ({committed_at(one)})")
        for one in choices(cell, states[name])
    ]


def _mentions(one: KnownRelease, query: str) -> bool:
    texts = (one.version, one.commit, one.author, *map(str, one.images), *one.places)
    return any(query.lower() in text.lower() for text in texts)


def _before(every: Sequence[KnownRelease], one: KnownRelease) -> KnownRelease | None:
    """The release before it, to compare with: the newest of those that are older."""
    older = (other for other in every if other.at < one.at and other.digests != one.digests)
    return next((other for other in older if common_names(other, one)), None)


def _too_long(reason: str) -> str:
    """Why a reason cannot be taken; empty if it can."""
    return (
        f"the reason has {len(reason)} characters, at most {_REASON}"
        if len(reason) > _REASON
        else ""
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 9 else 0
