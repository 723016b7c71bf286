"""The weights of two versions in the files of a GitOps repository, and the edits that set them.

A weight is the new version's percentage; 0 stands for no canary. What follows the repository does
exactly what the files say: a Rollout has one step with the weight and one that pauses without end,
since Argo Rollouts begins again at the first step whenever the steps change (rollout/canary.go,
PodTemplateOrStepsChanged). 100 % and a pause of a second make its version the stable one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shipline.deliver.canary.section import CanarySection, Weights
from shipline.deliver.gitops import (
    PlannedChange,
    Tree,
    TreeEdit,
    UnsuitableFile,
    Update,
    image_edits,
)
from shipline.deliver.gitops.yaml_text import Edit, YamlFile, YamlValue
from shipline.oci import Reference
from shipline.values import replace

_PAUSE_S = 1
_ROUTES = ("HTTPRoute", "GRPCRoute")
_WORKLOADS = ("Deployment", "StatefulSet", "ReplicaSet")


@dataclass(frozen=True, slots=True)
class Shares:
    """What each version gets: parts of 100, or pods."""

    stable: int
    canary: int


def shares(weights: Weights, weight: int, *, is_full: bool = False) -> Shares:
    """The shares at a weight of the canary. Where pods are counted, each version that has traffic
    has one pod at least, and with `is_full` the stable one has all that it ever has.
    """
    if weights.kind != "replicas":
        return Shares(100 - weight, weight)
    total = weights.total
    canary = round(total * weight / 100)
    if 0 < weight < 100:
        canary = min(max(canary, 1), total - 1)
    return Shares(total if is_full else total - canary, canary)


def set_weight(
    weights: Weights, tree: Tree, weight: int, *, is_full: bool = False
) -> dict[str, bytes]:
    """The files that change, with their new contents; none if the weight is set already. Raises
    UnsuitableFile if it cannot be found, or is there twice.
    """
    wanted = shares(weights, weight, is_full=is_full)
    files = [YamlFile.parse(path, tree[path]()) for path in _paths(weights, tree)]
    found = [
        (file, edits) for file in files for edits in _FINDERS[weights.kind](file, weights, wanted)
    ]
    expected = 2 if weights.kind == "replicas" else 1
    if len(found) != expected:
        raise _unsuitable(weights, [file for file, _ in found])
    edited = {
        file.path: file.edited([edit for other, edits in found if other is file for edit in edits])
        for file in files
    }
    return {path: content for path, content in edited.items() if content != tree[path]()}


def giving(
    section: CanarySection, updates: Sequence[Update], images: Mapping[str, Reference], weight: int
) -> list[TreeEdit]:
    """The edits that give images a weight; `updates` are those of the environment."""
    places = section.updates or updates  # a Rollout has one image
    return [*image_edits(places, images), lambda tree: set_weight(section.weights, tree, weight)]


def left(
    section: CanarySection,
    updates: Sequence[Update],
    weight: int,
    images: Mapping[str, Reference],
    stable: Mapping[str, Reference],
) -> list[TreeEdit]:
    """The edits that change nothing as long as the files have what a canary left at a weight. A
    target that the stable version does not have is left alone.
    """
    apart = [one for one in updates if section.updates and one.target in stable]
    return [*image_edits(apart, stable), *giving(section, updates, images, weight)]


def reset(section: CanarySection, images: Mapping[str, Reference]) -> tuple[TreeEdit, ...]:
    """The edits that end a canary: no weight, and these images in its place, too."""
    weights = section.weights
    return (*image_edits(section.updates, images), lambda tree: set_weight(weights, tree, 0))


def ending(section: CanarySection | None, change: PlannedChange) -> PlannedChange:
    """A change of the environment, which ends the canary, if there is one, in the same commit."""
    if section is None or not change.images:
        return change
    return replace(change, edits=(*change.edits, *reset(section, change.images)))


def _paths(weights: Weights, tree: Tree) -> Sequence[str]:
    place = weights.place
    below = [
        path
        for path in tree
        if path.startswith(f"{place}/" if place else "") and path.endswith((".yaml", ".yml"))
    ]
    paths = [place] if place in tree else below if weights.kind == "replicas" else []
    if not paths:
        raise UnsuitableFile(
            f"{weights.kind}: the GitOps repository has no {place or 'such file'}",
            hint="the path is relative to the root of that repository",
        )
    return paths


def _unsuitable(weights: Weights, found: Sequence[YamlFile]) -> UnsuitableFile:
    where = ", ".join(file.path for file in found) or weights.place or "the GitOps repository"
    wanted = {
        "rollout": "needs exactly one Rollout with spec.strategy.canary.steps",
        "httproute": "needs exactly one route to {} and {}",
        "virtualservice": "needs exactly one VirtualService with routes to {} and {}",
        "replicas": "needs the replicas of {} and of {}, each once",
    }[weights.kind].format(weights.stable, weights.canary)
    return UnsuitableFile(f"{where}: {weights.kind} {wanted}")


def _at(value: YamlValue | None, *keys: str) -> YamlValue | None:
    for key in keys:
        value = value.get(key) if value else None
    return value


def _items(value: YamlValue | None, *keys: str) -> Iterator[YamlValue]:
    found = _at(value, *keys)
    yield from found.items if found else ()


def _in_rollout(file: YamlFile, weights: Weights, wanted: Shares) -> Iterator[list[Edit]]:
    """The two steps (Argo Rollouts, spec.strategy.canary.steps)."""
    for document in file.documents:
        if document.scalar("kind") != "Rollout":
            continue
        steps = list(_items(document, "spec", "strategy", "canary", "steps"))
        keys = [[entry.path[-1] for entry in step.entries] for step in steps]
        if keys != [["setWeight"], ["pause"]]:
            raise UnsuitableFile(
                f"{file.path}:{document.line}: its steps are not setWeight and pause",
                hint="leave two, which are filled in from the plan: `- setWeight: 100` and"
                f" `- pause: {{duration: {_PAUSE_S}}}`",
            )
        weight, pause = (next(step.entries) for step in steps)
        running = wanted.canary > 0
        yield [
            file.replace(weight, wanted.canary if running else 100),
            file.replace_in_braces(pause, {} if running else {"duration": _PAUSE_S}),
        ]


def _in_httproute(file: YamlFile, weights: Weights, wanted: Shares) -> Iterator[list[Edit]]:
    """The weights of backendRefs in all rules with both Services (Gateway API, HTTPRouteRule)."""
    for document in file.documents:
        if document.scalar("kind") in _ROUTES:
            rules = [
                list(_items(rule, "backendRefs")) for rule in _items(document, "spec", "rules")
            ]
            if edits := _in_routes(file, rules, weights, wanted, lambda ref: {ref.scalar("name")}):
                yield edits


def _in_virtualservice(file: YamlFile, weights: Weights, wanted: Shares) -> Iterator[list[Edit]]:
    """The weights of destinations, named by subset, host, or the host's first part (Istio,
    HTTPRouteDestination), in all routes with both.
    """

    def names(destination: YamlValue) -> set[str]:
        target = destination.get("destination")
        host, subset = (target.scalar(key) if target else "" for key in ("host", "subset"))
        return {subset} if subset else {host, host.partition(".")[0]}

    for document in file.documents:
        if document.scalar("kind") == "VirtualService":
            routes = [
                list(_items(route, "route"))
                for protocol in ("http", "tls", "tcp")
                for route in _items(document, "spec", protocol)
            ]
            if edits := _in_routes(file, routes, weights, wanted, names):
                yield edits


def _in_routes(
    file: YamlFile,
    routes: Sequence[Sequence[YamlValue]],
    weights: Weights,
    wanted: Shares,
    names: Callable[[YamlValue], set[str]],
) -> list[Edit]:
    edits: list[Edit] = []
    for route in routes:
        found = {
            name: [one for one in route if name in names(one)]
            for name in (weights.stable, weights.canary)
        }
        if not found[weights.canary]:
            continue
        if len(route) != 2 or any(len(several) != 1 for several in found.values()):
            raise UnsuitableFile(
                f"{file.path}:{route[0].line}: a route to {weights.canary} needs {weights.stable}"
                " beside it, and no others"
            )
        for name, share in ((weights.stable, wanted.stable), (weights.canary, wanted.canary)):
            edits += file.set_entries(found[name][0], {"weight": share})
    return edits


def _in_replicas(file: YamlFile, weights: Weights, wanted: Shares) -> Iterator[list[Edit]]:
    """The replicas of a workload, or those that a Kustomization sets for its name."""
    counts = {weights.stable: wanted.stable, weights.canary: wanted.canary}
    for document in file.documents:
        if document.scalar("kind") in _WORKLOADS:
            name = _at(document, "metadata", "name")
            spec = document.get("spec")
            if name and name.text in counts and spec and spec.get("replicas"):
                yield file.set_entries(spec, {"replicas": counts[name.text]})
        elif document.scalar("kind") in ("", "Kustomization"):
            for item in _items(document, "replicas"):
                if item.scalar("name") in counts:
                    yield file.set_entries(item, {"count": counts[item.scalar("name")]})


_FINDERS: Mapping[str, Callable[[YamlFile, Weights, Shares], Iterator[list[Edit]]]] = {
    "rollout": _in_rollout,
    "httproute": _in_httproute,
    "virtualservice": _in_virtualservice,
    "replicas": _in_replicas,
}
