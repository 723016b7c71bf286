"""The inputs of the repository's action, which are those of docker/build-push-action, as flags.

The action hands every input over as a variable, `INPUT_` and the name in capitals with underscores:
what people write never becomes part of a script. Lists are split as the original splits them
(its src/context.ts, version 7).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shipline.errors import UsageError


def by_comma(text: str, name: str) -> tuple[str, ...]:
    """Values are separated by line ends and by commas, also by those in a line that is quoted.

    Raises UsageError that names the input.
    """
    values: list[str] = []
    for record in _records(text, name):
        values += record if len(record) > 1 else record[0].split(",")
    return _present(values)


def by_line(text: str, name: str) -> tuple[str, ...]:
    """Values are separated by line ends; one in double quotes may hold line ends.

    Raises UsageError that names the input.
    """
    return _present([",".join(record) for record in _records(text, name)])


def verbatim(text: str) -> tuple[str, ...]:
    """Each line is a literal value, including quotes."""
    return _present(text.splitlines())


def _records(text: str, name: str) -> list[list[str]]:
    try:
        return [record for record in csv.reader(io.StringIO(text, newline="")) if record]
    except csv.Error as error:
        raise UsageError(f"input {name}: {error}", hint="quote a value as a whole") from None


def _present(values: list[str]) -> tuple[str, ...]:
    return tuple(value.strip() for value in values if value.strip())


_TRUE = ("true", "True", "TRUE")
_FALSE = ("", "false", "False", "FALSE")  # with _TRUE, the booleans of YAML 1.2's core schema

_COMMA_LISTS = {
    "add-hosts": "--add-host",
    "allow": "--allow",
    "no-cache-filters": "--no-cache-filter",
    "platforms": "--platform",
    "ssh": "--ssh",
    "tags": "--tag",
}
_LINE_LISTS = {
    "annotations": "--annotation",
    "attests": "--attest",
    "build-args": "--build-arg",
    "build-contexts": "--build-context",
    "cache-from": "--cache-from",
    "cache-to": "--cache-to",
    "labels": "--label",
    "ulimit": "--ulimit",
}
_TEXTS = {
    "builder": "--builder",
    "call": "--call",
    "cgroup-parent": "--cgroup-parent",
    "file": "--file",
    "network": "--network",
    "provenance": "--provenance",
    "sbom": "--sbom",
    "shm-size": "--shm-size",
    "target": "--target",
}
_SWITCHES = {"load": "--load", "no-cache": "--no-cache", "pull": "--pull", "push": "--push"}

INPUTS = frozenset(
    {*_COMMA_LISTS, *_LINE_LISTS, *_TEXTS, *_SWITCHES}
    | {"context", "outputs", "secrets", "secret-envs", "secret-files", "github-token"}
)
"""Every input of the action."""

KeepSecret = Callable[[str], Path]
"""Puts a value into a file that only this user reads, for as long as the build runs."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """`shipline build` as the inputs want it: `arguments` end with the context; `masked` are values
    that no log may show; `warnings` name inputs that were left out.
    """

    arguments: tuple[str, ...]
    iidfile: Path | None
    metadata_file: Path
    masked: tuple[str, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Secrets:
    flags: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def invocation(environ: Mapping[str, str], scratch: Path, keep: KeepSecret) -> Invocation:
    """Read the inputs from `environ`; the results of the build are to be files in `scratch`.

    Raises UsageError for an input that cannot be read. What the build itself refuses, it refuses.
    """
    inputs = {name: environ.get(variable(name), "").strip() for name in INPUTS}
    context = inputs["context"] or _workspace(environ)
    outputs = verbatim(inputs["outputs"])
    secrets = _secrets(inputs, context, environ, keep)
    metadata = scratch / "metadata.json"
    iidfile = None if _exports_files(outputs) or _only_asks(inputs) else scratch / "iid"
    flags = [*_plain(inputs), *_each("--output", outputs), *secrets.flags]
    if iidfile is not None:
        flags += ["--iidfile", str(iidfile)]
    flags += ["--metadata-file", str(metadata), "--", context]
    return Invocation(tuple(flags), iidfile, metadata, secrets.masked, secrets.warnings)


def variable(name: str) -> str:
    """The variable in which the action hands over the input `name`."""
    return "INPUT_" + name.upper().replace("-", "_")


def _plain(inputs: Mapping[str, str]) -> list[str]:
    """The inputs that are flags of the same meaning."""
    flags: list[str] = []
    for name, flag in _COMMA_LISTS.items():
        flags += _each(flag, by_comma(inputs[name], name))
    for name, flag in _LINE_LISTS.items():
        flags += _each(flag, by_line(inputs[name], name))
    for name, flag in _TEXTS.items():
        flags += _each(flag, [inputs[name]] if inputs[name] else [])
    return flags + [flag for name, flag in _SWITCHES.items() if _boolean(inputs[name], name)]


def _each(flag: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]


def _boolean(text: str, name: str) -> bool:
    if text not in (*_TRUE, *_FALSE):
        raise UsageError(f"input {name}: {text!r} is neither true nor false")
    return text in _TRUE


def _workspace(environ: Mapping[str, str]) -> str:
    """The directory of the job, which takes the place of the original's git context."""
    workspace = Path(environ.get("GITHUB_WORKSPACE") or ".")
    if not any(workspace.iterdir()):
        raise UsageError(
            "input context: nothing is checked out",
            hint="run actions/checkout before, or name a context",
        )
    return str(workspace)


def _exports_files(outputs: tuple[str, ...]) -> bool:
    """Whether an output is a tree or a tar, which have no image ID."""
    for text in outputs:
        fields = dict(part.strip().partition("=")[::2] for part in text.split(","))
        if fields.get("type", "local") in ("local", "tar"):
            return True
    return False


def _only_asks(inputs: Mapping[str, str]) -> bool:
    return inputs["call"].partition(",")[0] not in ("", "build")


def _secrets(
    inputs: Mapping[str, str], context: str, environ: Mapping[str, str], keep: KeepSecret
) -> _Secrets:
    flags, masked, warnings = [], [], []
    pairs = [*by_line(inputs["secrets"], "secrets"), *_token(inputs, context, environ)]
    for number, pair in enumerate(pairs, 1):
        name, _, value = pair.partition("=")
        if name and value:
            masked.append(value)
            flags.append(f"id={name},src={keep(value)}")
        else:  # a secret that this run may not see is empty: the original goes on without it
            warnings.append(f"input secrets: number {number} ({name}) has no value")
    for name, value in _pairs(by_comma(inputs["secret-envs"], "secret-envs"), "secret-envs"):
        flags.append(f"id={name},env={value}")
    for name, value in _pairs(by_line(inputs["secret-files"], "secret-files"), "secret-files"):
        if not Path(value).is_file():
            raise UsageError(f"input secret-files: there is no file {value}")
        flags.append(f"id={name},src={value}")
    return _Secrets(tuple(_each("--secret", flags)), tuple(masked), tuple(warnings))


def _pairs(values: Iterable[str], name: str) -> list[tuple[str, str]]:
    pairs = []
    for text in values:
        key, _, value = text.partition("=")
        if not key or not value:
            raise UsageError(f"input {name}: {text!r} is not ID=VALUE")
        pairs.append((key, value))
    return pairs


def _token(inputs: Mapping[str, str], context: str, environ: Mapping[str, str]) -> list[str]:
    """The token of the job, where the context is the job's own repository on the server."""
    own_repository = (
        f"{environ.get('GITHUB_SERVER_URL', '')}/{environ.get('GITHUB_REPOSITORY', '')}.git"
    )
    use_token = inputs["github-token"] and "://" in context and context.startswith(own_repository)
    if not use_token or inputs["secrets"].startswith("GIT_AUTH_TOKEN="):
        return []
    return [f"GIT_AUTH_TOKEN={inputs['github-token']}"]
