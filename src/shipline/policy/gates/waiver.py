"""A waiver: an exception with an owner, a reason and an end."""

from __future__ import annotations

from dataclasses import dataclass, field

from shipline.errors import ConfigError
from shipline.globs import glob
from shipline.units import Day


def _doc(text: str) -> dict[str, str]:
    return {"doc": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """An exception with an owner and an end. Names are globs; empty ones match everything.

    With none of `id`, `package`, `purl` and `path` it waives the whole gate that it names.
    """

    owner: str = field(metadata=_doc("Who answers for it."))
    reason: str = field(metadata=_doc("Why it is acceptable."))
    until: Day = field(metadata=_doc("The last day on which it holds, like 2026-12-31."))
    id: str = field(default="", metadata=_doc("Vulnerability, alias or rule, as a glob."))
    package: str = field(default="", metadata=_doc("Name of the package, as a glob."))
    purl: str = field(default="", metadata=_doc("Package URL, as a glob."))
    path: str = field(default="", metadata=_doc("File or target, as a glob."))
    gate: str = field(default="", metadata=_doc("Name of the gate, as a glob."))
    image: str = field(default="", metadata=_doc("Repository of the image, as a glob."))
    environment: str = field(default="", metadata=_doc("Environment it holds in, as a glob."))

    def __post_init__(self) -> None:
        for key in ("owner", "reason"):
            if not getattr(self, key).strip():
                raise ConfigError(f"{key}: a waiver needs its {key}")
        if self.path:
            glob(self.path)
        if self.whole and not self.gate:
            raise ConfigError("a waiver needs id, package, purl, path or gate: it waives nothing")

    @property
    def whole(self) -> bool:
        return not (self.id or self.package or self.purl or self.path)

    def __str__(self) -> str:
        parts = ("id", "package", "purl", "path", "gate", "image", "environment")
        return " ".join(f"{key}={getattr(self, key)}" for key in parts if getattr(self, key))
