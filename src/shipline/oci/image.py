"""Image configuration: how to run the image, and its layers (config.md)."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Self, TypedDict

import msgspec
from msgspec import Struct, field

from shipline.errors import ContentError
from shipline.oci.descriptor import Digest
from shipline.oci.manifest import from_bytes, to_go_bytes
from shipline.oci.platform import Platform
from shipline.values import replace

_KNOWN = {
    "architecture",
    "author",
    "config",
    "created",
    "history",
    "os",
    "os.features",
    "os.version",
    "rootfs",
    "variant",
}


_RUN: tuple[str, ...] = (
    *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels"),
    *("StopSignal", "ArgsEscaped", "Healthcheck", "OnBuild", "Shell"),
)
"""The order of keys in `config` (moby/docker-image-spec, specs-go/v1)."""
_MAPS = ("ExposedPorts", "Volumes", "Labels")


class History(Struct, frozen=True):
    """One instruction; `empty_layer` is true if it has no layer. `created` is RFC 3339 text."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "created": self.created,
            "created_by": self.created_by,
            "author": self.author,
            "comment": self.comment,
        }
        value = {key: text for key, text in value.items() if text}
        if self.empty_layer:
            value["empty_layer"] = True
        return value


class _Run(TypedDict, total=False):
    """The types in `config` (image specification, config.md), where each may be null."""

    User: str | None
    WorkingDir: str | None
    StopSignal: str | None
    Env: list[str] | None
    Entrypoint: list[str] | None
    Cmd: list[str] | None
    Shell: list[str] | None
    OnBuild: list[str] | None
    Labels: dict[str, str] | None
    Volumes: dict[str, Any] | None
    ExposedPorts: dict[str, Any] | None
    Healthcheck: dict[str, Any] | None


class ImageConfig(Struct, frozen=True):
    """The image's settings. `run` holds the `config` object with its keys as specified
    (`Env`, `Cmd`, `Entrypoint`, `User`, ...); unknown keys, there and in `extra`, are kept.
    """

    platform: Platform
    run: Mapping[str, Any] = field(default_factory=lambda: types.MappingProxyType({}))
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    created: str = ""
    author: str = ""
    extra: Mapping[str, Any] = field(default_factory=lambda: types.MappingProxyType({}))

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises ContentError for anything but an image configuration."""
        document = from_bytes(raw)
        run = document.get("config") or {}
        rootfs = document.get("rootfs") or {}
        history = document.get("history") or []
        if not isinstance(run, dict) or not isinstance(rootfs, dict):
            raise ContentError(
                "the image configuration has an ill-typed config or rootfs", code="image-invalid"
            )
        try:
            msgspec.convert(run, _Run)
        except msgspec.ValidationError as error:
            raise ContentError(
                f"the image configuration is ill-typed: config: {error}", code="image-invalid"
            ) from None
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            raise ContentError(
                "the image configuration has an ill-typed history", code="image-invalid"
            )
        diff_ids = rootfs.get("diff_ids") or []
        if not isinstance(diff_ids, list):
            raise ContentError(
                "the image configuration has ill-typed diff_ids", code="image-invalid"
            )
        return cls(
            Platform.from_json(document),
            types.MappingProxyType(run),
            tuple(Digest.parse(str(diff_id)) for diff_id in diff_ids),
            tuple(map(_history, history)),
            str(document.get("created") or ""),
            str(document.get("author") or ""),
            types.MappingProxyType({k: v for k, v in document.items() if k not in _KNOWN}),
        )

    def to_bytes(self) -> bytes:
        """The document as stored: the bytes that BuildKit gives it."""
        document: dict[str, Any] = dict(self.extra)
        document |= self.platform.to_json()
        document["config"] = dict(sorted(map(_sorted, self.run.items()), key=_place))
        document["rootfs"] = {"type": "layers", "diff_ids": list(map(str, self.diff_ids))}
        if self.history:
            document["history"] = [entry.to_json() for entry in self.history]
        if self.created:
            document["created"] = self.created
        if self.author:
            document["author"] = self.author
        return to_go_bytes(dict(sorted(document.items())))

    @property
    def env(self) -> dict[str, str]:
        """The environment; a variable without `=` is empty."""
        return dict(_assignment(text) for text in self.run.get("Env") or ())

    @property
    def specified(self) -> Self:
        """Without what is empty and what no specification has, such as the `container_config` of
        older dockers: what BuildKit takes over from a base image.
        """
        run = {key: value for key, value in self.run.items() if key in _RUN and value}
        return replace(self, run=types.MappingProxyType(run), extra=types.MappingProxyType({}))

    def set(self, **values: Any) -> Self:
        """With keys of `run` replaced; None or an empty value removes the key."""
        run = {**self.run, **values}
        gone = {key for key in values if not values[key]}
        kept = {key: value for key, value in run.items() if key not in gone}
        return replace(self, run=types.MappingProxyType(kept))


def _sorted(member: tuple[str, Any]) -> tuple[str, Any]:
    key, value = member
    return key, dict(sorted(value.items())) if key in _MAPS and value else value


def _place(member: tuple[str, Any]) -> int:
    return _RUN.index(member[0]) if member[0] in _RUN else len(_RUN)


def _assignment(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _history(entry: dict[str, Any]) -> History:
    return History(
        str(entry.get("created") or ""),
        str(entry.get("created_by") or ""),
        str(entry.get("author") or ""),
        str(entry.get("comment") or ""),
        bool(entry.get("empty_layer")),
    )
