"""Caches of builds as BuildKit takes them; those in directories are served from here.

Source: moby/buildkit, client/solve.go (parseCacheOptions); docker/buildx, util/buildflags/cache.go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from shipline.build.request import CacheBackend, CacheSettings, OutputFormat
from shipline.buildkit.messages import CacheOptions, CacheOptionsEntry
from shipline.cachestores.unusable import InvalidCacheAttributes
from shipline.content import OciLayout
from shipline.errors import NotFound
from shipline.events import Step
from shipline.oci import Descriptor
from shipline.units import parse_boolean

_AWS = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}


class OpenCaches(Struct, frozen=True):
    """The caches of a build; `stores` are those in directories here, `tags` the names that the
    written ones get, `reset` those that keep nothing else.
    """

    options: CacheOptions
    stores: dict[str, OciLayout] = field(default_factory=dict)
    tags: list[tuple[OciLayout, str]] = field(default_factory=list)
    reset: list[OciLayout] = field(default_factory=list)

    def name(self, response: Mapping[str, str]) -> None:
        """Name what was written in directories, as the exporters say."""
        if not (found := response.get("cache.manifest")):
            return
        manifest = Descriptor.from_json(json.loads(found))
        for layout, tag in self.tags:
            layout.tag(manifest, layout, tag)
        for layout in self.reset:
            layout.remove_unnamed()


def open_caches(caches: CacheSettings, environment: Mapping[str, str], step: Step) -> OpenCaches:
    """The caches that a build reads and writes. A directory without a cache is a warning, as it is
    before the first build. Raises ContentError for one that cannot be opened.
    """
    found = OpenCaches(CacheOptions())
    for source in caches.sources:
        if (entry := _import(source, environment, found, step)) is not None:
            found.options.imports.append(entry)
    for target in caches.targets:
        entry = _entry(target.backend, environment)
        entry.attrs["mode"] = target.mode
        entry.attrs |= _compression(target.format)
        if not target.required:
            entry.attrs["ignore-error"] = "true"
        if entry.type == "local":
            layout = _layout(entry.attrs.get("dest", ""), found, create=True)
            found.tags.append((layout, entry.attrs.get("tag", "latest")))
            if parse_boolean(entry.attrs.get("reset", "false")):
                found.reset.append(layout)
        found.options.exports.append(entry)
    return found


def _compression(wanted: OutputFormat) -> Mapping[str, str]:
    """The attributes of a cache whose layers do not stay as they are."""
    found: dict[str, str] = {}
    if wanted.compression:
        found["compression"] = wanted.compression
    if wanted.level is not None:
        found["compression-level"] = str(wanted.level)
    if wanted.force:
        found["force-compression"] = "true"
    return found


def _import(
    source: CacheBackend, environment: Mapping[str, str], found: OpenCaches, step: Step
) -> CacheOptionsEntry | None:
    entry = _entry(source, environment)
    if entry.type == "local":
        name = entry.attrs.get("digest") or entry.attrs.get("tag", "latest")
        try:
            layout = _layout(entry.attrs.get("src", ""), found)
            entry.attrs["digest"] = str(layout.resolve(name).digest)
        except NotFound as error:
            step.warn(f"the {source} is left out: {error.message}")
            return None
    return entry


def _layout(place: str, found: OpenCaches, *, create: bool = False) -> OciLayout:
    """The layout in a directory, which the daemon knows by the path that it was given."""
    if not place:
        raise InvalidCacheAttributes(
            "a cache of type=local needs dest=DIRECTORY to write, src= to read",
        )
    layout = OciLayout(Path(place), create=create)
    found.stores[f"local:{place}"] = layout
    return layout


def _entry(backend: CacheBackend, environment: Mapping[str, str]) -> CacheOptionsEntry:
    attributes = dict(backend.attributes)
    implied = _implied(backend.type, attributes, environment)
    given = {name: value for name, value in implied.items() if value}
    return CacheOptionsEntry(backend.type, given | attributes)


def _implied(
    kind: str, attributes: Mapping[str, str], environment: Mapping[str, str]
) -> Mapping[str, str]:
    """Attributes that variables of this process stand in for: the daemon has others. A key that is
    given whole has no session but the one that is given with it.
    """

    def variable(name: str) -> str:
        return environment.get(name, "")

    if kind == "gha":
        results = variable("ACTIONS_RESULTS_URL")
        version = attributes.get("version") or (
            "2" if parse_boolean(variable("ACTIONS_CACHE_SERVICE_V2")) else ""
        )
        return {
            "token": variable("ACTIONS_RUNTIME_TOKEN"),
            "url": variable("ACTIONS_CACHE_URL") or results,
            "url_v2": results if version == "2" else "",
        }
    if kind != "s3" or {"access_key_id", "secret_access_key"} <= attributes.keys():
        return {}
    return {name: variable(one) for name, one in _AWS.items()}
