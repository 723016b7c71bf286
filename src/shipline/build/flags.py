"""The flags of `docker buildx build`, as text, to a BuildRequest.

Pure functions; what depends on the environment or on the disk takes it as an argument. All raise
UsageError that names the flag. Notation: buildx, docs/reference/buildx_build.md.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from shipline.build.attributes import (
    Attributes,
    each,
    parse_attribute,
    parse_attributes,
    parse_boolean,
    parse_integer,
    parse_size,
    split_csv,
    unique,
)
from shipline.build.request import (
    SHM_SIZE,
    BuildRequest,
    CacheSettings,
    Call,
    Context,
    ContextKind,
    Host,
    Network,
    PolicyOptions,
    RunOptions,
    Secret,
    Ssh,
)
from shipline.build.result_flags import (
    parse_annotation,
    parse_attestations,
    parse_cache_source,
    parse_cache_targets,
    parse_outputs,
    parse_tags,
)
from shipline.errors import FlagConflict, InvalidFlag, MissingFlag, UsageError
from shipline.oci import Platform, Reference, Resources, Ulimit
from shipline.values import replace

_NO_ARTIFACT = "BUILDX_NO_DEFAULT_OCI_ARTIFACT"
_METADATA = "BUILDX_METADATA_PROVENANCE"


def parse_request(
    context: str,
    environ: Mapping[str, str],
    *,
    file: str | None = None,
    target: str | None = None,
    build_context: Iterable[str] = (),
    build_arg: Iterable[str] = (),
    label: Iterable[str] = (),
    annotation: Iterable[str] = (),
    platform: Iterable[str] = (),
    pull: bool = False,
    secret: Iterable[str] = (),
    ssh: Iterable[str] = (),
    network: str = "default",
    add_host: Iterable[str] = (),
    allow: Iterable[str] = (),
    ulimit: Iterable[str] = (),
    shm_size: str | None = None,
    cgroup_parent: str | None = None,
    resource: Iterable[str] = (),
    memory: str | None = None,
    memory_swap: str | None = None,
    cpu_shares: str | None = None,
    cpu_period: str | None = None,
    cpu_quota: str | None = None,
    cpuset_cpus: str | None = None,
    cpuset_mems: str | None = None,
    no_cache: bool = False,
    no_cache_filter: Iterable[str] = (),
    cache_from: Iterable[str] = (),
    cache_to: Iterable[str] = (),
    tag: Iterable[str] = (),
    output: Iterable[str] = (),
    push: bool = False,
    load: bool = False,
    attest: Iterable[str] = (),
    provenance: str | None = None,
    sbom: str | None = None,
    policy: Iterable[str] = (),
    call: str = "build",
    iidfile: str | None = None,
    metadata_file: str | None = None,
) -> BuildRequest:
    """The request for flags of the same names; those that may be repeated are iterables.

    `environ` has the values for bare names of --build-arg, DOCKER_DEFAULT_PLATFORM, and
    the variables of buildx for attestations. A request
    that can be parsed may still be impossible: see `check_request`. An empty value is as good as
    none where buildx takes it so: scripts give what a variable has.
    """
    plain = parse_boolean(environ.get(_NO_ARTIFACT) or "false", _NO_ARTIFACT)
    outputs = parse_outputs(filter(None, output), push=push, load=load, artifact=not plain)
    stated, listed = parse_attestations(attest, provenance=provenance, sbom=sbom)
    arguments = parse_assignments(build_arg, "--build-arg", environ)
    limits = {
        "memory": memory,
        "memory-swap": memory_swap,
        "cpu-shares": cpu_shares,
        "cpu-period": cpu_period,
        "cpu-quota": cpu_quota,
        "cpuset-cpus": cpuset_cpus,
        "cpuset-mems": cpuset_mems,
    }
    return BuildRequest(
        context=parse_context(context, os.path.isdir),
        dockerfile=file or None,
        target=target or None,
        build_contexts=dict(map(parse_build_context, filter(None, build_context))),
        build_args=arguments,
        labels=parse_assignments(label, "--label"),
        annotations=each(parse_annotation, filter(None, annotation)),
        platforms=parse_platforms([*platform] or [environ.get("DOCKER_DEFAULT_PLATFORM", "")]),
        pull=pull,
        secrets=tuple(parse_secret(text, environ) for text in secret if text),
        ssh=tuple(map(parse_ssh, filter(None, ssh))),
        run=RunOptions(
            network=_network(network or "default"),
            hosts=tuple(map(parse_host, each(split_csv, add_host))),
            entitlements=parse_entitlements(allow),
            ulimits=parse_ulimits(ulimit),
            shm_size=parse_size(shm_size or "0", "--shm-size") or SHM_SIZE,
            resources=replace(parse_resources(resource, limits), cgroup_parent=cgroup_parent or ""),
        ),
        cache=CacheSettings(
            disabled=no_cache,
            disabled_stages=each(split_csv, no_cache_filter),
            sources=unique(*each(parse_cache_source, cache_from)),
            targets=parse_cache_targets(cache_to, arguments),
        ),
        tags=unique(*parse_tags(tag), *(name for one in outputs for name in one.names)),
        outputs=outputs,
        provenance=stated,
        sbom=listed,
        policy=parse_policy(policy),
        call=parse_call(call or "build"),
        iidfile=Path(iidfile) if iidfile else None,
        metadata_file=Path(metadata_file) if metadata_file else None,
        metadata_provenance=_metadata_provenance(environ.get(_METADATA) or "min", metadata_file),
    )


def parse_context(text: str, is_directory: Callable[[str], bool]) -> Context:
    """The positional argument. An existing directory takes precedence over a URL of its name."""
    if text == "-":
        return Context(ContextKind.STDIN, "")
    if is_directory(text):
        return Context(ContextKind.LOCAL, text)
    if (remote := _remote(text)) is not None:
        return remote
    place, mark, ref = text.partition("#")
    hint = "give a directory, a Git or HTTP URL, or - for standard input"
    if mark and is_directory(place):  # as a Git URL, but on this machine
        directory = os.path.dirname(place) if os.path.basename(place) == ".git" else place
        name = ref.partition(":")[0] or "HEAD"
        hint = f"`git -C {directory or '.'} archive {name} | shipline build -` builds a commit"
    raise UsageError(
        f"the build context {text!r} is not a directory", code="context-not-found", hint=hint
    )


def parse_build_context(text: str) -> tuple[str, Context]:
    """`name=` followed by a path, docker-image://, oci-layout:// or a URL."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InvalidFlag(
            f"--build-context: invalid context value: {text}, expected key=value",
            hint="write it as name=context",
        )
    Reference.parse(name.lower())
    if value == "-":
        raise FlagConflict("--build-context: standard input cannot be a named context")
    for kind in (ContextKind.IMAGE, ContextKind.LAYOUT):
        if value.startswith(f"{kind}://"):
            return name.lower(), Context(kind, value.removeprefix(f"{kind}://"))
    if value.startswith("target:"):
        raise InvalidFlag(
            f"--build-context {name}: {value!r} is a target of a bake file",
            hint="`shipline bake` builds targets; or give its image: docker-image://, oci-layout://",
        )
    return name.lower(), _remote(value) or Context(ContextKind.LOCAL, value)


def check_url(text: str) -> None:
    """Raises UsageError for a URL with a host that cannot be one."""
    try:
        urlsplit(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a URL: {error}", code="url-invalid") from None


def _remote(text: str) -> Context | None:
    """The context at a URL, None for another text. Raises UsageError for a wrong Git URL."""
    if not any(mark in text for mark in ("://", "@", "github.com/")):
        return None
    check_url(text)
    from shipline.git import parse_git_source  # slow to import

    if parse_git_source(text, short=True) is not None:
        return Context(ContextKind.GIT, text)
    if text.lower().startswith(("http://", "https://")):
        return Context(ContextKind.HTTP, text)
    return None


def parse_platforms(texts: Iterable[str]) -> tuple[Platform, ...]:
    """Comma-separated platforms, in their order, each once."""
    return unique(*(Platform.parse(word) for word in each(split_csv, texts) if word.strip()))


def parse_secret(text: str, environ: Mapping[str, str]) -> Secret:
    """`[type=file|env,]id=ID[,src=PATH][,env=NAME]`.

    With neither type nor source: the variable ID if `environ` has it, else the file ID.
    """
    fields = parse_attributes(text, "--secret")
    kind, name = fields.pop("type", ""), fields.pop("id", "")
    sources = [fields.pop(key, "") for key in ("src", "source")]
    source, variable = sources[0] or sources[1], fields.pop("env", "")
    fault = ""
    if fields:
        fault = f"unexpected key '{next(iter(fields))}'"  # its value may be a secret
    elif kind not in ("", "file", "env"):
        fault = f'unsupported secret type "{kind}"'
    elif not name:
        fault = "secret missing ID"
    if fault:
        raise UsageError(
            f"--secret: {fault}",
            code="secret-unreadable",
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
        raise MissingFlag(f"--ssh: {text!r} has no id")
    return Ssh(name, tuple(Path(path) for path in paths.split(",") if path))


_NETWORKS = ("default", "none", "host")
_ENTITLEMENTS = ("network.host", "security.insecure", "device")
_ULIMITS = frozenset(
    {"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"}
    | {"rss", "rtprio", "rttime", "sigpending", "stack"}
)


def _network(text: str) -> Network:
    if text not in _NETWORKS:
        raise InvalidFlag(f"--network: {text!r} is not one of {', '.join(_NETWORKS)}")
    return cast(Network, text)


def parse_host(text: str) -> Host:
    """`host:ip` or `host=ip`; an IPv6 address may be in brackets."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    try:
        if address != "host-gateway":
            ipaddress.ip_address(address)
    except ValueError:
        separator = ""
    if not separator or not name:
        raise InvalidFlag(f"--add-host: invalid host {text}", hint="write it as host:ip")
    return Host(name, address)


def parse_entitlements(texts: Iterable[str]) -> frozenset[str]:
    """Comma-separated network.host, security.insecure, device; or device=NAME[,alias=OTHER]."""
    words = frozenset(
        each(lambda text: (text,) if text.startswith("device=") else split_csv(text), texts)
    )
    for word in words:
        kind, _, rest = word.partition("=")
        if kind not in _ENTITLEMENTS or (rest and kind != "device"):
            raise InvalidFlag(f"--allow: {word!r} is not one of {', '.join(_ENTITLEMENTS)}")
        for more in split_csv(rest)[1:]:
            if not more.startswith("alias="):
                raise InvalidFlag(f"--allow: {more!r} in {word!r} is not alias=NAME")
    return words


def parse_ulimits(texts: Iterable[str]) -> tuple[Ulimit, ...]:
    """The limits by name, as buildx sends them; of several with one name the last."""
    limits = {one.name: one for one in map(parse_ulimit, texts)}
    return tuple(limits[name] for name in sorted(limits))


def parse_ulimit(text: str) -> Ulimit:
    """`name=soft[:hard]`; the hard limit is the soft one by default."""
    name, equals, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    if not equals or name not in _ULIMITS:
        raise InvalidFlag(f"--ulimit: {text!r} is not name=soft[:hard]")
    limit = Ulimit(name, parse_integer(soft, "--ulimit"), parse_integer(hard or soft, "--ulimit"))
    if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
        raise InvalidFlag(f"--ulimit: the soft limit is above the hard one in {text!r}")
    return limit


def parse_resources(
    texts: Iterable[str], older: Mapping[str, str | None] | None = None, flag: str = "--resource"
) -> Resources:
    """`key=value` lists; later values replace earlier ones, and those of docker's older flags."""
    given = {key: value for key, value in (older or {}).items() if value}
    for text in texts:
        given |= parse_attributes(text, flag)
    fields = Attributes(flag, given)
    found = Resources(
        cpu_period=fields.integer("cpu-period", 0),
        cpu_quota=fields.integer("cpu-quota", 0),
        cpu_shares=fields.integer("cpu-shares", 0),
        cpuset_cpus=fields.text("cpuset-cpus"),
        cpuset_mems=fields.text("cpuset-mems"),
        memory=fields.size("memory"),
        memory_swap=-1 if fields.text("memory-swap") == "-1" else fields.size("memory-swap"),
    )
    if fields.rest:
        raise InvalidFlag(
            f"{flag}: unknown limit {', '.join(fields.rest)}",
            hint="known: cpu-period, cpu-quota, cpu-shares, cpuset-cpus, cpuset-mems, memory,"
            " memory-swap",
        )
    return found


def _metadata_provenance(text: str, file: str | None) -> Literal["min", "max"] | None:
    """What BUILDX_METADATA_PROVENANCE says: min, max, disabled or a boolean; None without a
    metadata file.
    """
    if text not in ("min", "max", "disabled"):
        text = "min" if parse_boolean(text, _METADATA) else "disabled"
    if text == "disabled" or not file:
        return None
    return "max" if text == "max" else "min"


_LOG_LEVELS = ("panic", "fatal", "error", "warn", "warning", "info", "debug", "trace", "none")


def parse_policy(given: Iterable[str]) -> PolicyOptions:
    """`filename=path`, which may be repeated, `reset`, `disabled`, `strict`: all values together.
    The level of a log is read and has no effect.
    """
    flag, files, switches = "--policy", [], {"reset": False, "disabled": False, "strict": False}
    for field in each(split_csv, given):
        name, value = parse_attribute(field, flag)
        if name == "filename" and value:
            files.append(value)
        elif name in switches:
            switches[name] |= parse_boolean(value, f"{flag} {name}")
        elif name != "log-level" or value.lower() not in _LOG_LEVELS:
            raise InvalidFlag(
                f"{flag}: unknown attribute {field!r}",
                hint="known: filename, reset, disabled, strict, log-level",
            )
    return PolicyOptions(tuple(dict.fromkeys(files)), **switches)


_METHODS = ("build", "check", "outline", "targets", "subrequests.describe")


def parse_call(text: str) -> Call:
    """`method[,format=json|text][,ignorestatus]`; `lint` is an older name of `check`."""
    method, *options = split_csv(text)
    method = "check" if method == "lint" else method
    if "=" not in method and method not in _METHODS:
        raise InvalidFlag(f"--call: {method!r} is not one of {', '.join(_METHODS)}")
    known = {"format=json", "format=text", "ignorestatus", "ignorestatus=true"}
    if method not in _METHODS or not known.issuperset(options):
        raise InvalidFlag(f"--call: cannot read {text!r}")
    return Call(method, "format=json" in options, any("ignorestatus" in one for one in options))


def parse_assignments(
    texts: Iterable[str], flag: str, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`K=V` each. A bare `K` has its value in `environ`, and is left out if that lacks it;
    without an `environ` its value is empty.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key:
            raise InvalidFlag(f'{flag}: invalid key-value pair "{text}": empty key')
        if equals:
            found[key] = value
        elif environ is None:
            found[key] = ""
        elif key in environ:
            found[key] = environ[key]
    return found
