"""The inputs of the action of this repository, which are those of docker/build-push-action, as
flags.

The action passes every input as a variable, `INPUT_` and the name in upper case with underscores,
so that values never become part of a script. Lists are split as in the original (src/context.ts,
version 7).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shipline.errors import UsageError


def by_comma(text: str, name: str) -> tuple[str, ...]:
    """The values, separated by newlines and commas. Raises UsageError with the name of the
    input.
    """
    values: list[str] = []
    for record in _records(text, name):
        values += record if len(record) > 1 else record[0].split(",")
    return _present(values)


def by_line(text: str, name: str) -> tuple[str, ...]:
    """The values, separated by newlines; a quoted value may contain newlines. Raises UsageError
    with the name of the input.
    """
    return _present([",".join(record) for record in _records(text, name)])


def verbatim(text: str) -> tuple[str, ...]:
    """Each line is a literal value, including quotes."""
    return _present(text.splitlines())


def _records(text: str, name: str) -> list[list[str]]:
    try:
        return [record for record in csv.reader(io.StringIO(text, newline="")) if record]
    except csv.Error as error:
        raise UsageError(
            f"input {name}: {error}", code="action-input", hint="quote a value as a whole"
        ) from None


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
_DEFAULT_CONTEXT = "{{defaultContext}}"
_SWITCHES = {"load": "--load", "no-cache": "--no-cache", "pull": "--pull", "push": "--push"}

INPUTS = frozenset(
    {*_COMMA_LISTS, *_LINE_LISTS, *_TEXTS, *_SWITCHES}
    | {"context", "outputs", "secrets", "secret-envs", "secret-files", "github-token"}
)
"""Every input of the action."""

KeepSecret = Callable[[str], Path]
"""Writes a value to a file that only this user can read, until the build has ended."""


@dataclass(frozen=True, slots=True)
class BuildCommand:
    """The call of `shipline build` for the inputs: `arguments` end with the context; `masked` are
    values to mask in the log; `warnings` name ignored inputs.
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


def invocation(environ: Mapping[str, str], scratch: Path, keep: KeepSecret) -> BuildCommand:
    """Read the inputs from `environ`; the build writes its results to files in `scratch`. Raises
    UsageError for an invalid input; the build itself checks the rest.
    """
    inputs = {name: environ.get(variable(name), "").strip() for name in INPUTS}
    inputs["provenance"] = _with_builder(inputs["provenance"], environ)
    inputs["attests"] = "\n".join(_attests(inputs, environ))
    context = _context(inputs["context"], environ)
    outputs = verbatim(inputs["outputs"])
    secrets = _secrets(inputs, context, environ, keep)
    metadata = scratch / "metadata.json"
    iidfile = None if _exports_files(outputs) or _only_asks(inputs) else scratch / "iid"
    flags = [*_plain(inputs), *_each("--output", outputs), *secrets.flags]
    if iidfile is not None:
        flags += ["--iidfile", str(iidfile)]
    flags += ["--metadata-file", str(metadata), "--", context]
    return BuildCommand(tuple(flags), iidfile, metadata, secrets.masked, secrets.warnings)


def variable(name: str) -> str:
    """The variable for the input `name`."""
    return "INPUT_" + name.upper().replace("-", "_")


def _plain(inputs: Mapping[str, str]) -> list[str]:
    """The flags for inputs with the same meaning."""
    flags: list[str] = []
    for name, flag in _COMMA_LISTS.items():
        flags += _each(flag, by_comma(inputs[name], name))
    for name, flag in _LINE_LISTS.items():
        flags += _each(flag, by_line(inputs[name], name))
    for name, flag in _TEXTS.items():
        flags += _each(flag, [inputs[name]] if inputs[name] else [])
    return flags + [flag for name, flag in _SWITCHES.items() if _boolean(inputs[name], name)]


def _with_builder(provenance: str, environ: Mapping[str, str]) -> str:
    """The input with the URL of the run as builder-id, as the original adds it, unless it has one
    or is false.
    """
    server, run = environ.get("GITHUB_SERVER_URL", ""), environ.get("GITHUB_RUN_ID", "")
    if not (server and run) or provenance in _FALSE or "builder-id=" in provenance:
        return provenance
    place = f"{server}/{environ.get('GITHUB_REPOSITORY', '')}/actions/runs/{run}"
    builder = f"builder-id={place}/attempts/{environ.get('GITHUB_RUN_ATTEMPT', '1')}"
    return builder if provenance in _TRUE else f"{provenance},{builder}"


def _attests(inputs: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    """The input without what provenance and sbom say, which come first; a statement of how the
    image was made has the run as its builder.
    """
    for text in by_line(inputs["attests"], "attests"):
        kind = dict(part.strip().partition("=")[::2] for part in text.split(",")).get("type", "")
        if kind in ("provenance", "sbom") and inputs[kind]:
            continue
        is_off = "disabled=true" in text.replace(" ", "")
        yield _with_builder(text, environ) if kind == "provenance" and not is_off else text


def _each(flag: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]


def _boolean(text: str, name: str) -> bool:
    if text not in (*_TRUE, *_FALSE):
        raise UsageError(f"input {name}: {text!r} is neither true nor false", code="action-input")
    return text in _TRUE


def _context(text: str, environ: Mapping[str, str]) -> str:
    """The context; without one the commit of the job, in its repository on the server, which the
    text may name `{{defaultContext}}`. Raises UsageError if the job has no repository.
    """
    if text and _DEFAULT_CONTEXT not in text:
        return text
    repository = _repository(environ)
    if not repository:
        raise UsageError(
            "input context: the job does not say what its repository is (GITHUB_REPOSITORY)",
            code="variable-missing",
            hint="set context, as `.` for the workspace",
        )
    ref, commit = environ.get("GITHUB_REF", ""), environ.get("GITHUB_SHA", "")
    if ref and not ref.startswith("refs/"):
        ref = f"refs/heads/{ref}"
    fragment = commit if commit and not ref.startswith("refs/pull/") else ref
    default = f"{repository}#{fragment}" if fragment else repository
    return text.replace(_DEFAULT_CONTEXT, default) if text else default


def _repository(environ: Mapping[str, str]) -> str:
    """The URL of the job's own repository; empty if it is not known."""
    server, name = environ.get("GITHUB_SERVER_URL", ""), environ.get("GITHUB_REPOSITORY", "")
    return f"{server}/{name}.git" if server and name else ""


def _exports_files(outputs: tuple[str, ...]) -> bool:
    """Whether an output is a directory or a tar, which have no image ID."""
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
        else:  # empty for a secret that this run has no access to: the original ignores it
            warnings.append(f"input secrets: number {number} ({name}) has no value")
    for name, value in _pairs(by_comma(inputs["secret-envs"], "secret-envs"), "secret-envs"):
        flags.append(f"id={name},env={value}")
    for name, value in _pairs(by_line(inputs["secret-files"], "secret-files"), "secret-files"):
        if not Path(value).is_file():
            raise UsageError(
                f"input secret-files: there is no file {value}", code="file-unreadable"
            )
        flags.append(f"id={name},src={value}")
    return _Secrets(tuple(_each("--secret", flags)), tuple(masked), tuple(warnings))


def _pairs(values: Iterable[str], name: str) -> list[tuple[str, str]]:
    pairs = []
    for text in values:
        key, _, value = text.partition("=")
        if not key or not value:
            raise UsageError(f"input {name}: {text!r} is not ID=VALUE", code="action-input")
        pairs.append((key, value))
    return pairs


def _token(inputs: Mapping[str, str], context: str, environ: Mapping[str, str]) -> list[str]:
    """The token of the job, if the context is the job's own repository on the server."""
    own = _repository(environ)
    use_token = inputs["github-token"] and own and context.startswith(own)
    if not use_token or inputs["secrets"].startswith("GIT_AUTH_TOKEN="):
        return []
    return [f"GIT_AUTH_TOKEN={inputs['github-token']}"]
