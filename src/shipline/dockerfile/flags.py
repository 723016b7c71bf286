"""The flags of an instruction, checked against those it knows."""

from __future__ import annotations

from dataclasses import dataclass

from shipline.dockerfile.suggest import did_you_mean
from shipline.errors import DockerfileError


@dataclass(frozen=True, slots=True)
class Flags:
    """The values of the flags by name, in order; no name means the flag was not given."""

    values: dict[str, tuple[str, ...]]

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, (default,))[-1]

    def all(self, name: str) -> tuple[str, ...]:
        return self.values.get(name, ())

    def switch(self, name: str) -> bool:
        return self.tristate(name) or False

    def tristate(self, name: str) -> bool | None:
        return self.text(name) == "true" if name in self.values else None


def read_flags(
    words: tuple[str, ...],
    *,
    text: tuple[str, ...] = (),
    repeated: tuple[str, ...] = (),
    switches: tuple[str, ...] = (),
) -> Flags:
    """The flags `words` (`--name=value`) as one of three kinds.

    Raises DockerfileError for an unknown flag, one given twice that is not `repeated`, a missing
    value and a switch that is neither true nor false.
    """
    known = (*text, *repeated, *switches)
    values: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, value = word[2:].partition("=")
        if name not in known:
            suggestion = did_you_mean(name, known)
            listed = ", ".join(f"--{flag}" for flag in known) or "none"
            raise DockerfileError(
                f"unknown flag: {name}{suggestion}", hint=f"the known flags are: {listed}"
            )
        if name in values and name not in repeated:
            raise DockerfileError(f"duplicate flag specified: {name}", hint="remove one of them")
        if name in switches:
            value = _switch(name, bool(equals), value)
        elif not equals:
            raise DockerfileError(f"missing a value on flag: {name}", hint=f"write --{name}=...")
        values[name] = (*values.get(name, ()), value)
    return Flags(values)


def _switch(name: str, given: bool, value: str) -> str:
    if given and not value:
        raise DockerfileError(f"missing a value on flag: {name}", hint=f"write --{name}")
    lower = value.lower() or "true"
    if lower not in ("true", "false"):
        raise DockerfileError(
            f"expecting boolean value for flag {name}, not: {value}", hint="use true or false"
        )
    return lower
