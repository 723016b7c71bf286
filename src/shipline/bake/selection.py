"""Which targets a command means, with their inheritance and overrides resolved.

Reference: docs/bake-reference.md and docs/reference/buildx_bake.md (`--set`) of docker/buildx.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from shipline.bake.definitions import Definitions
from shipline.bake.entries import Entry, parse_entries, without_duplicates
from shipline.bake.syntax import BakeError, not_too_deep
from shipline.bake.target import ATTRIBUTES, Group, Target
from shipline.dockerfile import nearest
from shipline.errors import InvalidFlag, UsageError
from shipline.globs import glob
from shipline.units import parse_boolean

_KEYS = {
    **{name: name for name in ATTRIBUTES if name not in ("inherits", "description")},
    "secrets": "secret",
    "platform": "platforms",
    "push": "push",
    "load": "load",
}
del _KEYS["secret"], _KEYS["platforms"]
_SEVERAL = frozenset(
    {"output", "cache-to", "cache-from", "tags", "platform", "secrets", "ssh", "attest", "policy"}
    | {"entitlements", "annotations", "no-cache-filter", "ulimits"}
)
_NAMED = ("args", "contexts", "labels", "extra-hosts")
_GLOB = "*?["


class Override(Struct):
    """`--set target.key=value`: `granted` are what the command line itself names, so that it needs
    no permission.
    """

    key: str
    name: str = ""
    values: list[str] = field(default_factory=list)
    append: bool = False


class SelectedTargets(Struct, frozen=True):
    """Targets by name, those that others need among them, and groups."""

    targets: dict[str, Target]
    groups: dict[str, Group]
    named: frozenset[str] = frozenset()
    """Paths that the command line names."""

    def to_json(self) -> dict[str, Any]:
        """What `--print` shows."""
        groups = {name: self.groups[name].to_json() for name in sorted(self.groups)}
        return {
            **({"group": groups} if groups else {}),
            "target": {name: self.targets[name].to_json() for name in sorted(self.targets)},
        }


def select(
    config: Definitions, wanted: Sequence[str], overrides: Iterable[str], environ: Mapping[str, str]
) -> SelectedTargets:
    """The targets that `wanted` means: names or patterns of targets and groups.

    Raises BakeError for a target that is wrong, UsageError for a wrong override.
    """
    with not_too_deep():
        return _Selector(config, overrides, environ).select(wanted)


class _Selector:
    def __init__(
        self, config: Definitions, overrides: Iterable[str], environ: Mapping[str, str]
    ) -> None:
        self.config = config
        self.named: set[str] = set()
        self.linked: set[str] = set()
        self.overrides: dict[str, dict[tuple[str, str], Override]] = {}
        for written in overrides:
            self.add_override(written, environ)

    def select(self, wanted: Sequence[str]) -> SelectedTargets:
        names = list(
            dict.fromkeys(name for one in wanted for name in self.matching(one.replace(".", "_")))
        )
        targets: dict[str, Target] = {}
        groups: dict[str, Group] = {}
        for name in names:
            members, passed = self.members(name)
            for member in members:
                targets[member] = self.target(member)
            for group in passed:
                groups[group] = self.config.groups[group]
        for name in names:
            if name == "default" and "default" in groups:
                continue
            default = groups.setdefault("default", Group("default"))
            default = groups["default"] = Group("default", [*default.targets], default.description)
            default.targets.append(name)
        if "default" in groups:
            groups["default"].targets = sorted(dict.fromkeys(groups["default"].targets))
        for name in list(targets):
            self.link(targets[name], targets, [])
        return SelectedTargets(targets, groups, frozenset(self.named))

    def matching(self, pattern: str) -> list[str]:
        if not any(sign in pattern for sign in _GLOB):
            return [pattern]
        found = [
            name for name in (*self.config.groups, *self.config.targets) if _matches(pattern, name)
        ]
        if not found:
            raise UsageError(
                f"could not find any target matching '{pattern}'",
                code="bake-target-unknown",
                hint=self.offered(pattern),
            )
        return found

    def offered(self, name: str) -> str:
        known = [one for one in (*self.config.groups, *self.config.targets) if one[:1] != "_"]
        if close := nearest(name, known):
            return f"did you mean {close}?"
        return f"there are {', '.join(known[:20])}" if known else "no target is defined"

    def members(self, name: str) -> tuple[list[str], list[str]]:
        """The targets of a group, and the groups on the way; a target is its own."""
        members: dict[str, None] = {}
        groups: dict[str, None] = {}

        def walk(one: str) -> None:
            group = self.config.groups.get(one)
            if group is None or (one in running and one in self.config.targets):
                members[one] = None
            elif one in running:
                raise BakeError(
                    f"groups contain each other: {' -> '.join([*running, one])}", code="bake-circle"
                )
            elif one not in groups:
                groups[one] = None
                running.append(one)
                for member in group.targets:
                    walk(member)
                running.pop()

        running: list[str] = []
        walk(name)
        return list(members), list(groups)

    def target(self, name: str) -> Target:
        found = self.inherited(name, {}, [])
        if found.values.get("context") is None:
            found.values["context"] = "."
        if not found.values.get("dockerfile"):
            found.values["dockerfile"] = "Dockerfile"
        return found

    def inherited(self, name: str, done: dict[str, Target], path: list[str]) -> Target:
        if name in path:
            raise BakeError(
                f"targets inherit in a circle: {' -> '.join([*path, name])}", code="bake-circle"
            )
        if name in done:
            return done[name]
        own = self.config.targets.get(name)
        if own is None:
            child = f", which {path[-1]} inherits" if path else ""
            raise BakeError(
                f"failed to find target {name}{child}",
                code="bake-target-unknown",
                hint=self.offered(name),
            )
        found = Target(name)
        for parent in own.texts("inherits"):
            found.merge(self.inherited(parent, done, [*path, name]))
        found.merge(own)
        found.values.pop("inherits", None)  # children would add it to their own, again and again
        for override in self.overrides.get(name, {}).values():
            self.apply(found, override)
        found.normalize()
        done[name] = found
        return found

    def link(self, target: Target, targets: dict[str, Target], path: list[str]) -> None:
        """Add the targets that `target` has as contexts; their entitlements become its own."""
        path = [*path, target.name]
        for context in (target.values.get("contexts") or {}).values():
            if not context.startswith("target:"):
                continue
            name = context.removeprefix("target:")
            if name in path:
                circle = " -> ".join([*path, name])
                raise BakeError(
                    f"infinite loop from {target.name} to {name}: targets have each other as"
                    f" contexts, {circle}",
                    code="bake-circle",
                )
            if name not in targets:
                linked = self.target(name)
                linked.values["output"] = [{"type": "cacheonly"}]
                linked.linked = True
                targets[name] = linked
            other = targets[name]
            if name not in self.linked:
                self.link(other, targets, path)
                self.linked.add(name)
            added = [*target.texts("entitlements"), *other.texts("entitlements")]
            if added:
                target.values["entitlements"] = list(dict.fromkeys(added))
            own, offered = target.texts("platforms"), other.texts("platforms")
            if len(own) > 1 and len(offered) > 1 and not set(own) <= set(offered):
                raise BakeError(
                    f"target {name} can't be used by {target.name} because its platforms"
                    f" [{' '.join(own)}] are not a subset of [{' '.join(offered)}]",
                    code="platform-missing",
                )

    # overrides

    def add_override(self, written: str, environ: Mapping[str, str]) -> None:
        """`target.key[.name][+]=value`"""
        left, equals, value = written.partition("=")
        append = left.endswith("+")
        pattern, *rest = left.removesuffix("+").split(".", 2)
        key, name = (rest[0], rest[1] if len(rest) > 1 else "") if rest else ("", "")
        if not key:
            raise InvalidFlag(
                f"--set: invalid override key {written}, expected target.name",
                hint="write TARGET.KEY=VALUE, as in web.args.VERSION=1, or *.push=true",
            )
        if key not in _KEYS:
            close = nearest(key, _KEYS)
            hint = f"did you mean {close}?" if close else f"it is one of {', '.join(_KEYS)}"
            raise InvalidFlag(f"--set: unknown key: {key}", hint=hint)
        if not equals and key != "args":
            raise InvalidFlag(
                f"--set: invalid override {written}, expected target.name=value",
                hint="write target.key=value",
            )
        if key in _NAMED and not name:
            raise InvalidFlag(
                f"--set: invalid key {pattern}.{key}, {key} requires name",
                hint=f"write {pattern}.{key}.NAME=value",
            )
        if not equals:
            if name not in environ:
                return
            value = environ[name]
        names = [one for one in self.config.targets if one == pattern]
        names = names or [one for one in self.config.targets if _matches(pattern, one)]
        if not names:
            raise UsageError(
                f"--set: could not find any target matching '{pattern}'",
                code="bake-target-unknown",
                hint=self.offered(pattern),
            )
        for one in names:
            known = self.overrides.setdefault(one, {})
            override = known.setdefault((key, name), Override(key, name))
            if key in _SEVERAL:
                override.values.append(value)
                override.append = append
            else:
                override.values = [value]

    def apply(self, target: Target, override: Override) -> None:
        key, values = override.key, override.values
        attribute = _KEYS[key]
        if key in ("push", "load"):
            on = _boolean(key, values[-1])
            change = _pushed if key == "push" else _loaded
            target.values["output"] = change(target.values.get("output") or [], on)
            return
        kind = ATTRIBUTES[attribute]
        if key in _NAMED:
            named = target.values.get(attribute) or {}
            target.values[attribute] = {**named, override.name: values[-1]}
        elif key in ("pull", "no-cache"):
            target.values[attribute] = _boolean(key, values[-1])
        elif key in _SEVERAL:
            new: list[Any] = parse_entries(kind.entries, values) if kind.entries else [*values]
            self.note(key, new)
            if override.append or key in ("entitlements", "annotations", "attest"):
                new = [*(target.values.get(attribute) or ()), *new]
            target.values[attribute] = (
                without_duplicates(kind.entries, new) if kind.entries else new
            )
        else:
            target.values[attribute] = values[-1]

    def note(self, key: str, entries: Sequence[Any]) -> None:
        """Remember the paths that the command line names."""
        paths: Callable[[Entry], Iterable[str]] = {
            "cache-from": lambda one: [one.get("src", "")] if one["type"] == "local" else [],
            "cache-to": lambda one: [one.get("dest", "")] if one["type"] == "local" else [],
            "secrets": lambda one: [one.get("src", "")],
            "ssh": lambda one: one.get("paths", ()),
            "output": lambda one: [one.get("dest", "")],
        }.get(key, lambda one: ())
        if key == "entitlements":
            self.named.update(entries)
        else:
            self.named.update(path for one in entries for path in paths(one) if path)


def _matches(pattern: str, name: str) -> bool:
    try:
        return glob(pattern).fullmatch(name) is not None
    except ValueError:
        return False


def _boolean(key: str, value: str) -> bool:
    if (found := parse_boolean(value)) is None:
        raise InvalidFlag(
            f"--set: invalid value {value} for boolean key {key}", hint="use true or false"
        )
    return found


def _pushed(outputs: Sequence[Entry], on: bool) -> list[Entry]:
    """Outputs that push, or one more where there is none but for the engine; or none that does."""
    if not on:
        kept = [one for one in outputs if one["type"] != "registry"]
        return [{**one, "push": "false"} if one["type"] == "image" else one for one in kept]
    found = [{**one, "push": "true"} if one["type"] == "image" else one for one in outputs]
    if all(one["type"] == "docker" for one in found):
        found.append({"type": "image", "push": "true"})
    return found


def _loaded(outputs: Sequence[Entry], on: bool) -> list[Entry]:
    """Outputs of which one loads, unless there is another than images."""
    images = ("docker", "image", "registry", "oci")
    there = any(one["type"] == "docker" and not one.get("dest") for one in outputs)
    if not on or there or any(one["type"] not in images for one in outputs):
        return list(outputs)
    return [*outputs, {"type": "docker"}]
