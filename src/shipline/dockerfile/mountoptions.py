"""The values of a mount's options: choices, switches, numbers, sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from shipline.dockerfile.suggest import did_you_mean
from shipline.errors import DockerfileError

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b)?", re.IGNORECASE)
_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(slots=True)
class MountOptions:
    """The options of one mount: text by key, `order` the keys as they came.

    Every method raises DockerfileError for a value that is not what the key takes.
    """

    values: dict[str, str]
    order: list[str] = field(default_factory=list)

    def text(self, key: str, default: str = "") -> str:
        return self.values.get(key, default)

    def choice(self, key: str, kind: type[_Choice], default: _Choice) -> _Choice:
        if key not in self.values:
            return default
        text = self.values[key]
        try:
            return kind(text.lower())
        except ValueError:
            known = [str(item) for item in kind]
            what = "mount type" if key == "type" else f"{key} value"
            raise DockerfileError(
                f'unsupported {what} "{text}"{did_you_mean(text, known)}',
                hint=f"use one of {', '.join(known)}",
            ) from None

    def boolean(self, key: str) -> bool:
        text = self.text(key, "false")
        if text not in _TRUE | _FALSE:
            raise DockerfileError(f"invalid value for {key}: {text}", hint="use true or false")
        return text in _TRUE

    def read_only(self, default: bool) -> bool:
        """The last of readonly and readwrite wins."""
        for key in reversed(self.order):
            if key == "readonly":
                return self.boolean(key)
            if key == "readwrite":
                return not self.boolean(key)
        return default

    def number(self, key: str, default: int, *, base: int = 10) -> int:
        text = self.text(key)
        if not text:
            return default
        digits = "0-7" if base == 8 else "0-9"
        if not re.fullmatch(f"[{digits}]+", text) or int(text, base) >= 1 << 32:
            raise DockerfileError(
                f"invalid value {text} for {key}",
                hint="use an octal number such as 0755" if base == 8 else "use a number",
            )
        return int(text, base)

    def owner(self, mode: int) -> tuple[int, int, int]:
        return self.number("mode", mode, base=8), self.number("uid", 0), self.number("gid", 0)


def parse_size(text: str) -> int:
    """Bytes of a size such as `64m` or `1.5GiB`; units are powers of 1024."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise DockerfileError(f"invalid value for size: {text}", hint="use a size such as 64m")
    return int(float(found[1]) * 1024 ** " kmgtp".index(found[2].lower() or " "))
