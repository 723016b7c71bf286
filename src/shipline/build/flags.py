"""Values of the flags of `docker buildx build`, as text, to the types of a BuildRequest.

Pure functions; what depends on the environment or on the disk takes it as an argument. All raise
UsageError that names the flag. Notation: buildx, docs/reference/buildx_build.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from shipline.build.request import (
    SHM_SIZE,
    Attestation,
    CacheBackend,
    Call,
    Context,
    ContextKind,
    Host,
    Resources,
    Secret,
    Ssh,
    Ulimit,
)
from shipline.build.values import (
    parse_attributes,
    parse_boolean,
    parse_integer,
    parse_size,
    split_csv,
)
from shipline.errors import UsageError
from shipline.oci import Platform, Reference

_GIT = re.compile(
    r"(?:git://|ssh://|github\.com/|git@[^/:]+:|https?://[^#?]+\.git(?:[#?]|\Z))", re.IGNORECASE
)
_ULIMITS = frozenset(
    {"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"}
    | {"rss", "rtprio", "rttime", "sigpending", "stack"}
)
_METHODS = ("build", "check", "outline", "targets", "subrequests.describe")
_ENTITLEMENTS = ("network.host", "security.insecure", "device")


def parse_context(text: str, is_directory: Callable[[str], bool]) -> Context:
    """The positional argument of build. A directory on the disk comes before a URL of its name."""
    if text == "-":
        return Context(ContextKind.STDIN, "")
    if is_directory(text):
        return Context(ContextKind.LOCAL, text)
    if (remote := _remote(text)) is not None:
        return remote
    raise UsageError(
        f"the build context {text!r} is not a directory",
        hint="give a directory, a git or http URL, or - for standard input",
    )


def parse_build_context(text: str) -> tuple[str, Context]:
    """`name=path`, or `name=` with docker-image://, oci-layout:// or a URL behind it."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"--build-context: {text!r} is not name=context")
    if value == "-":
        raise UsageError("--build-context: standard input cannot be a named context")
    for kind in (ContextKind.IMAGE, ContextKind.LAYOUT):
        if value.startswith(f"{kind}://"):
            return name.lower(), Context(kind, value.removeprefix(f"{kind}://"))
    return name.lower(), _remote(value) or Context(ContextKind.LOCAL, value)


def _remote(text: str) -> Context | None:
    if _GIT.match(text):
        return Context(ContextKind.GIT, text)
    if text.startswith(("http://", "https://")):
        return Context(ContextKind.HTTP, text)
    return None


def parse_platforms(texts: Iterable[str]) -> tuple[Platform, ...]:
    """Comma lists of platforms, each platform once, in their order."""
    words = (word for text in texts for word in split_csv(text) if word.strip())
    return tuple(dict.fromkeys(map(Platform.parse, words)))


def parse_tags(texts: Iterable[str]) -> tuple[Reference, ...]:
    """Names to give, `latest` where no tag is said."""
    names = [Reference.parse(text) for text in texts]
    for name in names:
        if name.digest is not None:
            raise UsageError(f"--tag: {name} has a digest; a build cannot choose its digest")
    return tuple(dict.fromkeys(name.or_latest for name in names))


def parse_secret(text: str, environ: Mapping[str, str]) -> Secret:
    """`[type=file|env,]id=ID[,src=PATH][,env=NAME]`.

    With neither type nor source: the variable ID where `environ` has it, else the file ID.
    """
    fields = parse_attributes(text, "--secret")
    kind, name = fields.pop("type", ""), fields.pop("id", "")
    sources = [fields.pop(key, "") for key in ("src", "source")]
    source, variable = sources[0] or sources[1], fields.pop("env", "")
    if fields or kind not in ("", "file", "env") or not name:
        raise UsageError(
            f"--secret: cannot read {text!r}",
            hint="write it as id=NAME,src=FILE or id=NAME,env=VARIABLE",
        )
    if kind == "env":
        return Secret(name, env=variable or source or name)
    if variable and not source:
        return Secret(name, env=variable)
    if not source and not kind and name in environ:
        return Secret(name, env=name)
    return Secret(name, file=Path(source or name))


def parse_ssh(text: str) -> Ssh:
    """`default`, or `id=socket` or `id=key,key`."""
    name, _, paths = text.partition("=")
    if not name:
        raise UsageError(f"--ssh: {text!r} has no id")
    return Ssh(name, tuple(Path(path) for path in paths.split(",") if path))


def parse_cache(text: str, flag: str) -> tuple[CacheBackend, ...]:
    """`type=...,key=value`, or a comma list of image names, each a registry cache."""
    parts = split_csv(text)
    if all("=" not in part for part in parts):
        return tuple(CacheBackend("registry", {"ref": part}) for part in parts)
    fields = parse_attributes(text, flag)
    kind = fields.pop("type", "")
    if not kind:
        raise UsageError(f"{flag}: {text!r} has no type")
    return (CacheBackend(kind, fields),)


def parse_host(text: str) -> Host:
    """`host:ip` or `host=ip`; an IPv6 address may stand in brackets."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    address = address.removeprefix("[").removesuffix("]")
    try:
        if address != "host-gateway":
            ipaddress.ip_address(address)
    except ValueError:
        separator = ""
    if not separator or not name:
        raise UsageError(f"--add-host: {text!r} is not host:ip")
    return Host(name, address)


def parse_ulimit(text: str) -> Ulimit:
    """`name=soft[:hard]`; the hard limit is the soft one where it is not said."""
    name, equals, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    if not equals or name not in _ULIMITS:
        raise UsageError(f"--ulimit: {text!r} is not name=soft[:hard]")
    limit = Ulimit(name, parse_integer(soft, "--ulimit"), parse_integer(hard or soft, "--ulimit"))
    if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
        raise UsageError(f"--ulimit: the soft limit is above the hard one in {text!r}")
    return limit


def parse_shm_size(text: str) -> int:
    """Bytes; nothing and 0 are the default."""
    return parse_size(text, "--shm-size") or SHM_SIZE if text else SHM_SIZE


def parse_resources(texts: Iterable[str]) -> Resources:
    """`key=value` lists; a later value replaces an earlier one."""
    fields = {key: value for one in texts for key, value in _resource(one).items()}
    memory, swap = fields.pop("memory", ""), fields.pop("memory-swap", "")
    cpus, mems = fields.pop("cpuset-cpus", ""), fields.pop("cpuset-mems", "")
    numbers = {
        key: parse_integer(fields.pop(key, "0"), f"--resource {key}")
        for key in ("cpu-shares", "cpu-period", "cpu-quota")
    }
    if fields:
        raise UsageError(f"--resource: there is no {', '.join(fields)}")
    return Resources(
        parse_size(memory, "--resource memory") if memory else 0,
        -1 if swap == "-1" else parse_size(swap or "0", "--resource memory-swap"),
        numbers["cpu-shares"],
        numbers["cpu-period"],
        numbers["cpu-quota"],
        cpus,
        mems,
    )


def _resource(text: str) -> dict[str, str]:
    return parse_attributes(text, "--resource")


def parse_attestations(
    attest: Iterable[str], *, provenance: str | None = None, sbom: str | None = None
) -> tuple[Attestation, ...]:
    """--attest, with the short forms --provenance and --sbom: a boolean, or attributes."""
    found = [_attestation(parse_attributes(text, "--attest"), text) for text in attest]
    for kind, text in (("provenance", provenance), ("sbom", sbom)):
        if text is not None:
            found.append(_short_attestation(kind, text))
    kinds = [one.type for one in found]
    if len(set(kinds)) != len(kinds):
        raise UsageError("--attest: the same type of attestation is asked for twice")
    return tuple(found)


def _attestation(fields: dict[str, str], text: str) -> Attestation:
    kind = fields.pop("type", "")
    if kind not in ("provenance", "sbom"):
        raise UsageError(f"--attest: {text!r} has neither type=provenance nor type=sbom")
    disabled = parse_boolean(fields.pop("disabled", "false"), "--attest disabled")
    return Attestation(kind, fields, disabled)


def _short_attestation(kind: str, text: str) -> Attestation:
    if "=" in text:
        return _attestation({"type": kind, **parse_attributes(text, f"--{kind}")}, text)
    if kind == "provenance" and text in ("min", "max"):
        return Attestation(kind, {"mode": text})
    return Attestation(kind, disabled=not parse_boolean(text, f"--{kind}"))


def parse_call(text: str) -> Call:
    """`method[,format=json|text][,ignorestatus]`."""
    method, *options = split_csv(text)
    if "=" not in method and method not in _METHODS:
        raise UsageError(f"--call: {method!r} is not one of {', '.join(_METHODS)}")
    known = {"format=json", "format=text", "ignorestatus", "ignorestatus=true"}
    if method not in _METHODS or not known.issuperset(options):
        raise UsageError(f"--call: cannot read {text!r}")
    return Call(method, "format=json" in options, any("ignorestatus" in one for one in options))


def parse_entitlements(texts: Iterable[str]) -> frozenset[str]:
    """network.host, security.insecure, device[=name]; comma lists of them."""
    words = [word for text in texts for word in split_csv(text)]
    for word in words:
        if word.partition("=")[0] not in _ENTITLEMENTS:
            raise UsageError(f"--allow: {word!r} is not one of {', '.join(_ENTITLEMENTS)}")
    return frozenset(words)
