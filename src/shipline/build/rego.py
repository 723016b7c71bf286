"""Policies in Rego about what a build may read: those of `--policy`, and the file that is called
as the Dockerfile with `.rego` after it.

A policy is a module of the package `docker`. For each source, which is `input`, its rule `decision`
is an object with `allow`, and `deny_msg` for the reasons; a source is read if all policies allow
it. Source: buildx, policy/validate.go and policy/types.go. Its functions (`load_json`, ..) are
not here, and of its input what is in `_UNKNOWN` is not: a policy that reads it is refused,
because `not` would make of something unknown something true.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from shipline.build.source_rules import InvalidBuildPolicy
from shipline.errors import ConfigError, GateRefused
from shipline.files import reading
from shipline.net import split_url
from shipline.oci import ImageConfig, Platform, Reference

if TYPE_CHECKING:
    import regopy

    from shipline.build.request import BuildRequest
    from shipline.git import GitCommit

_SIZE_LIMIT = 1 << 20  # characters
_PACKAGE = "docker"
_SHA256_LENGTH = 64
_UNKNOWN = re.compile(
    r"\b(signatures?|(?:has)?[pP]rovenance|attestationBundle|(?:pgp|ssh)Signature|caps)\b"
    r"|\bgit\.(commit|tag)\b|\b(commit|tag)\."
)
_COMMENT = re.compile(r"(?m)^([^\"`#\n]*(?:\"[^\"\n]*\"[^\"`#\n]*)*)#.*$")
_PACKAGE_LINE = re.compile(r"(?m)^\s*package\s+([\w.]+)")
_IMPORT = re.compile(r"(?m)^\s*import\s+data\.([\w.]+)")


class RegoPolicies:
    """Policies that must all allow a source; `facts` are `input.env`."""

    def __init__(self, paths: tuple[Path, ...], facts: Mapping[str, Any]) -> None:
        """Raises UsageError for files that cannot be read, ConfigError without regopy."""
        self._facts = {name: value for name, value in facts.items() if value}
        self._lock = Lock()
        sources = {path: _modules(path) for path in paths}
        self._interpreters = {path: _interpreter(each) for path, each in sources.items()}
        texts = [text for each in sources.values() for text in each.values()]
        self._reads_checksum = any("http.checksum" in text for text in texts)

    def check_local(self, name: str) -> None:
        """Raises GateRefused where no files may come from the directory."""
        self._check(f"local://{name}", local={"name": name})

    def check_image(
        self, name: Reference, resolved: Reference, platform: Platform, config: ImageConfig
    ) -> None:
        """`name` as it is written, and with its digest. Raises GateRefused."""
        run = config.run
        image = {
            "ref": str(name),
            "host": name.host,
            "repo": name.tagged("latest").familiar.removesuffix(":latest"),
            "fullRepo": name.name,
            "tag": name.tag,
            "platform": str(platform),
            "os": platform.os,
            "arch": platform.architecture,
            "variant": platform.variant,
            "isCanonical": name.digest is not None,
            "checksum": str(resolved.digest),
            "createdTime": config.created,
            "env": run.get("Env"),
            "labels": run.get("Labels"),
            "user": run.get("User"),
            "volumes": sorted(run.get("Volumes") or ()),
            "workingDir": run.get("WorkingDir"),
        }
        self._check(f"docker-image://{name}", image=image)

    def check_http(self, url: str, checksum: str, *, authorized: bool) -> None:
        """Before the download, but for a policy about `input.http.checksum`, which only the file
        has where the Dockerfile has none. Raises GateRefused.
        """
        if not checksum and self._reads_checksum:
            return
        parts = split_url(url)
        fields = {
            "url": url,
            "schema": parts.scheme,
            "host": parts.netloc.rpartition("@")[2].lower(),
            "path": parts.path,
            "query": _query(parts.query),
            "hasAuth": authorized,
            "checksum": checksum,
        }
        self._check(url, http=fields)

    def check_git(self, found: GitCommit) -> None:
        """Raises GateRefused."""
        source = found.source
        scheme, mark, _ = source.remote.partition("://")
        named = {"refs/heads/": "branch", "refs/tags/": "tagName"}
        names = {
            key: found.ref.removeprefix(start)
            for start, key in named.items()
            if found.ref.startswith(start)
        }
        fields = {
            "schema": scheme if mark else "ssh",
            "host": source.host or source.remote.partition(":")[0].rpartition("@")[2],
            "remote": source.remote,
            "fullURL": source.remote,
            "ref": found.ref or found.commit,
            "subDir": source.subdir,
            "isCommitRef": not found.ref,
            "isSHA256": len(found.object) == _SHA256_LENGTH,
            "checksum": found.object,
            "commitChecksum": found.commit,
            "isAnnotatedTag": found.object != found.commit,
            **names,
        }
        self._check(f"git://{source.shown}", git=fields)

    def _check(self, identifier: str, **source: Mapping[str, Any]) -> None:
        given = {
            kind: {
                name: value for name, value in fields.items() if value not in (None, "", False, [])
            }
            for kind, fields in source.items()
        }
        text = {"env": self._facts} | given
        for path, interpreter in self._interpreters.items():
            with self._lock:
                decision = _decision(path, interpreter, text)
            if decision.get("allow") is True:
                continue
            reasons = decision.get("deny_msg")
            told = [one for one in reasons if isinstance(one, str)] if reasons else []
            raise GateRefused(
                f'source "{identifier}" not allowed by policy',
                code="source-denied",
                verdicts=tuple(sorted(told)),
                hint=f"{path} decides about {msgspec.json.encode(given).decode()}",
            )


def _query(text: str) -> dict[str, list[str]]:
    from urllib.parse import parse_qs

    return parse_qs(text, keep_blank_values=True)


def _decision(path: Path, interpreter: regopy.Interpreter, given: Mapping[str, Any]) -> Any:
    """What `decision` is for an input. Raises UsageError where it is not an object."""
    try:
        interpreter.set_input(given)
        (found,) = interpreter.query(f"data.{_PACKAGE}.decision").results[0].expressions
    except (ValueError, LookupError) as error:  # regopy reads its own error as JSON
        raise InvalidBuildPolicy(
            f"{path}: the policy has no decision",
            hint="write `decision := {..}`; functions of buildx, as load_json, are not there",
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("allow", False), bool):
        raise InvalidBuildPolicy(f"{path}: decision is {found!r}", hint='write `{"allow": allow}`')
    return found


def _modules(path: Path) -> dict[str, str]:
    """A policy and the modules that it imports: files beside it, by the names of their packages."""
    found: dict[str, str] = {}
    waiting = [(path, _PACKAGE)]
    while waiting:
        one, package = waiting.pop()
        if str(one) in found:
            continue
        found[str(one)] = text = _module(one, package)
        for name in _IMPORT.findall(text):
            if name.partition(".")[0] != _PACKAGE:
                waiting.append((path.parent / f"{name.replace('.', '/')}.rego", name))
    return found


def _module(path: Path, package: str) -> str:
    """The text of a module, as one of `package`."""
    with reading(path, of="--policy"), path.open(encoding="utf-8") as file:
        text = file.read(_SIZE_LIMIT)
    bare = _COMMENT.sub(r"\1", text)
    if unknown := _UNKNOWN.search(bare):
        raise InvalidBuildPolicy(
            f"{path}: the policy reads {unknown[0]!r}, which is not known here",
            hint="judge signatures with `shipline verify` or a node's policy, or pass"
            " --policy disabled=true",
        )
    found = _PACKAGE_LINE.search(bare)
    if found is None or package == _PACKAGE != found[1]:
        raise InvalidBuildPolicy(f"{path}: the policy is not of the package {package}")
    return bare[: found.start(1)] + package + bare[found.end(1) :]


def _interpreter(modules: Mapping[str, str]) -> regopy.Interpreter:
    try:
        import regopy
    except ImportError:
        raise ConfigError(
            "a policy in Rego needs the package regopy",
            code="package-missing",
            hint="pip install 'shipline[policy]'",
        ) from None
    found = regopy.Interpreter()
    found.log_level = regopy.LogLevel.NONE
    for name, text in modules.items():
        try:
            found.add_module(name, text)
        except regopy.RegoError as error:
            reasons = ", ".join(dict.fromkeys(re.findall(r"errormsg \d+:(.*?)\)", str(error))))
            raise InvalidBuildPolicy(f"{name}: not Rego: {reasons or error}") from None
    return found


def rego_policies(request: BuildRequest, paths: tuple[Path, ...]) -> RegoPolicies:
    """The policies in the files, for a build. Raises as RegoPolicies."""
    facts = {
        "args": dict(request.build_args),
        "labels": dict(request.labels),
        "filename": Path(request.dockerfile or "Dockerfile").name,
        "target": request.target,
    }
    return RegoPolicies(paths, facts)
