"""The flags of `docker buildx build`, as text, to a BuildRequest.

Pure functions; what depends on the environment or on the disk takes it as an argument. All raise
UsageError that names the flag. Notation: buildx, docs/reference/buildx_build.md.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar, cast
from urllib.parse import urlsplit

from shipline.build.attributes import (
    Attributes,
    parse_attribute,
    parse_attributes,
    parse_boolean,
    parse_integer,
    parse_size,
    split_csv,
)
from shipline.build.request import (
    SHM_SIZE,
    Annotation,
    BuildRequest,
    CacheBackend,
    CacheSettings,
    CacheTarget,
    Call,
    Context,
    ContextKind,
    Host,
    Level,
    Network,
    Output,
    OutputFormat,
    OutputType,
    PolicyOptions,
    ProvenanceOptions,
    RunOptions,
    SbomOptions,
    Secret,
    Ssh,
)
from shipline.errors import FlagConflict, InvalidFlag, MissingFlag, UsageError
from shipline.oci import Platform, Reference, Resources, Ulimit
from shipline.values import replace

T = TypeVar("T")
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
        annotations=_each(parse_annotation, filter(None, annotation)),
        platforms=parse_platforms([*platform] or [environ.get("DOCKER_DEFAULT_PLATFORM", "")]),
        pull=pull,
        secrets=tuple(parse_secret(text, environ) for text in secret if text),
        ssh=tuple(map(parse_ssh, filter(None, ssh))),
        run=RunOptions(
            network=_network(network or "default"),
            hosts=tuple(map(parse_host, _each(split_csv, add_host))),
            entitlements=parse_entitlements(allow),
            ulimits=parse_ulimits(ulimit),
            shm_size=parse_size(shm_size or "0", "--shm-size") or SHM_SIZE,
            resources=replace(parse_resources(resource, limits), cgroup_parent=cgroup_parent or ""),
        ),
        cache=CacheSettings(
            disabled=no_cache,
            disabled_stages=_each(split_csv, no_cache_filter),
            sources=_unique(*_each(parse_cache_source, cache_from)),
            targets=parse_cache_targets(cache_to, arguments),
        ),
        tags=_unique(*parse_tags(tag), *(name for one in outputs for name in one.names)),
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
    return _unique(*(Platform.parse(word) for word in _each(split_csv, texts) if word.strip()))


def parse_tags(texts: Iterable[str], flag: str = "--tag") -> tuple[Reference, ...]:
    """Names to give; the default tag is `latest`."""
    names = [Reference.parse(text) for text in texts]
    for name in names:
        if name.digest is not None:
            raise FlagConflict(f"{flag}: {name} has a digest; a build cannot choose its digest")
    return _unique(*(name.or_latest for name in names))


_ANNOTATION_PLACE = r"([a-z-]+)(?:\[([A-Za-z0-9_/.-]+)\])?\Z"
_ANNOTATION_ATTRIBUTE = r"annotation(?:-([a-z-]+))?(?:\[([a-z0-9_/.-]+)\])?\.(\S+)\Z"


def parse_annotation(text: str) -> tuple[Annotation, ...]:
    """`[type[platform],type...:]key=value`; the default type is `manifest`."""
    name, equals, value = text.partition("=")
    levels, colon, key = name.partition(":")
    if not colon:
        levels, key = "manifest", name
    if not equals or not key:
        raise InvalidFlag(f'--annotation: invalid annotation "{text}", expected key=value')
    found = []
    for place in levels.split(","):
        match = re.match(_ANNOTATION_PLACE, place)
        level, platform = (match[1], match[2]) if match else (place, None)
        found.append(_annotation("--annotation", level, platform, key, value))
    return tuple(found)


def _annotation(flag: str, level: str, platform: str | None, key: str, value: str) -> Annotation:
    if level not in list(Level):
        raise InvalidFlag(
            f'{flag}: unknown annotation type "{level}"', hint=f"use one of {', '.join(Level)}"
        )
    if platform and Level(level).of_index:
        raise FlagConflict(f"{flag}: an index is for all platforms, not for {platform}")
    return Annotation(Level(level), key, value, Platform.parse(platform) if platform else None)


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


_CACHES = ("registry", "local", "inline", "gha", "s3", "azblob")
_RECODED = ("registry", "local")
"""The types of caches whose layers may be recompressed."""
_OF_WRITING = ("mode", "ignore-error", "compression", "compression-level", "force-compression")
"""Accepted everywhere, as by buildx: one text may stand for the cache to read and to write."""
_OF_MANIFESTS = ("oci-mediatypes", "image-manifest")


def parse_cache_source(text: str) -> tuple[CacheBackend, ...]:
    """`type=...,key=value`, or comma-separated image names, each a registry cache."""
    backends = tuple(_cache_backend(fields) for fields in _cache_fields(text, "--cache-from"))
    if any(one.type == "inline" for one in backends):
        raise InvalidFlag(
            "--cache-from: an inline cache is read from its image",
            hint="write type=registry,ref=IMAGE",
        )
    return backends


def parse_cache_targets(
    texts: Iterable[str], build_args: Mapping[str, str]
) -> tuple[CacheTarget, ...]:
    """The caches of --cache-to, and the inline one of BUILDKIT_INLINE_CACHE=1."""
    found = [
        _cache_target(fields) for text in texts for fields in _cache_fields(text, "--cache-to")
    ]
    wanted = build_args.get("BUILDKIT_INLINE_CACHE", "")
    if wanted and parse_boolean(wanted, "BUILDKIT_INLINE_CACHE"):
        found.append(CacheTarget(CacheBackend("inline")))
    unique = _unique(*found)
    if len({(one.backend.type, *one.backend.attributes.values()) for one in unique}) < len(unique):
        raise FlagConflict("--cache-to: the same cache is given twice")
    return unique


def _cache_fields(text: str, flag: str) -> list[dict[str, str]]:
    parts = split_csv(text)
    if all("=" not in part for part in parts):
        return [{"type": "registry", "ref": part} for part in parts]
    fields = parse_attributes(text, flag)
    kind = fields.get("type", "")
    if kind not in _CACHES:
        raise MissingFlag(
            f"{flag}: {kind!r} is not a type of cache"
            if kind
            else f"{flag}: type= is missing beside {', '.join(fields)}",
            hint=f"use one of {', '.join(_CACHES)}",
        )
    return [fields]


def _cache_backend(given: Mapping[str, str]) -> CacheBackend:
    fields = Attributes("--cache-from", given)
    kind = fields.text("type")
    for name in _OF_WRITING if kind in _RECODED else (*_OF_WRITING, *_OF_MANIFESTS):
        fields.text(name)
    mounts = fields.switch("mounts", False)
    return CacheBackend(kind, fields.rest, mounts)


def _cache_target(given: Mapping[str, str]) -> CacheTarget:
    fields = Attributes("--cache-to", given)
    kind, mode = fields.text("type"), fields.text("mode") or "min"
    if mode not in ("min", "max"):
        raise InvalidFlag(f"--cache-to: mode={mode} is neither min nor max")
    format_ = OutputFormat()
    if kind in _RECODED:
        if fields.switch("image-manifest", False) and not fields.switch("oci-mediatypes", True):
            raise FlagConflict("--cache-to: image-manifest=true needs oci-mediatypes=true")
        format_ = _layer_format(fields)
        if format_.docker and format_.compression == "estargz":
            raise FlagConflict("--cache-to: compression=estargz needs oci-mediatypes=true")
    return CacheTarget(
        _cache_backend(given),
        cast(Literal["min", "max"], mode),
        format_,
        required=not fields.switch("ignore-error", True),
    )


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
        _each(lambda text: (text,) if text.startswith("device=") else split_csv(text), texts)
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


def parse_attestations(
    attest: Iterable[str], *, provenance: str | None = None, sbom: str | None = None
) -> tuple[ProvenanceOptions | None, SbomOptions | None]:
    """--attest, with the short forms --provenance and --sbom: a boolean, or attributes.

    As in buildx, the first attestation of a type counts, those of --attest before the short forms;
    an empty short form is as good as none.
    """
    texts = [_attributes(text, "--attest") for text in attest]
    for kind, text in (("provenance", provenance), ("sbom", sbom)):
        if text:
            texts.append({"type": kind, **_short_attestation(kind, text)})
    found: dict[str, dict[str, str]] = {}
    for fields in texts:
        kind = fields.pop("type", "")
        if kind not in ("provenance", "sbom"):
            what = (
                f"unknown attestation type {kind!r}" if kind else "attestation type not specified"
            )
            raise InvalidFlag(f"--attest: {what}", hint="write type=provenance or type=sbom")
        if parse_boolean(fields.pop("disabled", "false"), f"--attest type={kind} disabled"):
            fields = {"disabled": "true"}
        found.setdefault(kind, fields)
    wanted = {kind: fields for kind, fields in found.items() if "disabled" not in fields}
    return (
        _provenance(wanted["provenance"]) if "provenance" in wanted else None,
        _sbom(wanted["sbom"]) if "sbom" in wanted else None,
    )


def _short_attestation(kind: str, text: str) -> dict[str, str]:
    if "=" in text:
        return _attributes(text, f"--{kind}")
    if text in ("min", "max"):
        raise InvalidFlag(
            f"--{kind}: {text!r} is neither true nor false", hint=f"write mode={text}"
        )
    return {} if parse_boolean(text, f"--{kind}") else {"disabled": "true"}


def _attributes(text: str, flag: str) -> dict[str, str]:
    """Attributes of which the last one of a name counts, with names as they are written, since
    scanners get them; but for those that decide what it is.
    """
    found: dict[str, str] = {}
    for part in split_csv(text):
        lower, value = parse_attribute(part, flag)
        name = part.partition("=")[0].strip()
        found[lower if lower in ("type", "disabled", "generator") else name] = value
    return found


def _provenance(given: Mapping[str, str]) -> ProvenanceOptions:
    fields = Attributes("--provenance", {name.lower(): value for name, value in given.items()})
    mode, version = fields.text("mode", "max").lower(), fields.text("version", "v1")
    mode = "max" if mode == "full" else mode
    for name, value, known in (
        ("mode", mode, ("min", "max")),
        ("version", version, ("v1", "v0.2")),
    ):
        if value not in known:
            raise InvalidFlag(f"--provenance: {name} {value!r} is not one of {', '.join(known)}")
    options = ProvenanceOptions(
        mode=cast(Literal["min", "max"], mode),
        version=cast(Literal["v1", "v0.2"], version),
        builder_id=fields.text("builder-id"),
        reproducible=fields.switch("reproducible", False),
        inline_only=fields.switch("inline-only", False),
        filename=fields.text("filename") or "provenance.json",
    )
    if "/" in options.filename or options.filename in (".", ".."):
        raise InvalidFlag(
            f"--provenance: filename {options.filename!r} is a path", hint="write a name"
        )
    fields.close()
    return options


def _sbom(given: Mapping[str, str]) -> SbomOptions:
    generator = given.get("generator", "")
    if SbomOptions(generator).is_image:
        Reference.parse(generator)
        parameters = {**given, "type": "sbom"}  # BuildKit gives it to scanners, too
        del parameters["generator"]
        return SbomOptions(generator, parameters=tuple(sorted(parameters.items())))
    fields = Attributes("--sbom", {name.lower(): value for name, value in given.items()})
    options = SbomOptions(fields.text("generator"), fields.switch("cyclonedx", False))
    fields.close()
    return options


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
    for field in _each(split_csv, given):
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


_IMAGE = frozenset(
    {"name", "oci-mediatypes", "oci-artifact", "compression", "compression-level"}
    | {"force-compression", "rewrite-timestamp", "unpack", "store", "dangling-name-prefix"}
    | {"name-canonical", "attestation-inline", "prefer-nondist-layers", "compatibility-version"}
    | {"source-date-epoch"}
)
_TREE = frozenset({"dest", "platform-split", "attestation-prefix", "source-date-epoch"})
_ATTRIBUTES: dict[OutputType, frozenset[str]] = {
    "image": _IMAGE | {"push", "push-by-digest", "registry.insecure"},
    "oci": _IMAGE | {"dest", "tar"},
    "docker": _IMAGE | {"dest", "tar", "context"},
    "local": _TREE | {"mode"},
    "tar": _TREE,
    "cacheonly": frozenset(),
}


def parse_outputs(
    texts: Iterable[str], *, push: bool, load: bool, artifact: bool = True
) -> tuple[Output, ...]:
    """All outputs of a build. --push makes image outputs push, or adds one; --load adds the engine
    of this machine unless it is there. `artifact` is the default of oci-artifact.
    """
    outputs = [parse_output(text, artifact=artifact) for text in texts]
    if push:
        outputs = [replace(one, push=True) if one.type == "image" else one for one in outputs]
        if not any(output.push for output in outputs):
            outputs.append(Output("image", push=True, format=OutputFormat(artifact=artifact)))
    if load and not any(output.loads for output in outputs):
        outputs.append(Output("docker"))
    if sum(output.destination == "-" for output in outputs) > 1:
        raise FlagConflict("--output: only one output can go to standard output")
    return tuple(outputs)


def parse_output(text: str, *, artifact: bool = True) -> Output:
    """`type=T,key=value,...`; a path alone is type=local, `-` is type=tar to standard output, and
    type=registry is type=image,push=true. `artifact` is the default of oci-artifact.
    """
    if split_csv(text) == (text,) and not text.startswith("type="):
        return Output("tar" if text == "-" else "local", text)
    given = parse_attributes(text, "--output")
    kind = given.pop("type", "")
    if kind == "registry":
        kind, given = "image", {"push": "true", **given}
    if kind not in _ATTRIBUTES:
        raise InvalidFlag(
            f'--output: exporter "{kind}" could not be found, in {text!r}',
            hint=f"use one of {', '.join(sorted([*_ATTRIBUTES, 'registry']))}",
        )
    _check_attributes(kind, given)
    fields = Attributes("--output", given)
    _refuse_impossible(fields)
    prefix, unpack = fields.text("attestation-prefix"), fields.switch("unpack", False)
    if "/" in prefix:
        raise InvalidFlag("--output attestation-prefix: a prefix of file names cannot contain '/'")
    destination = fields.text("dest") or ("-" if kind in ("tar", "oci") else "")
    if kind == "local" and destination in ("", "-"):
        raise MissingFlag(
            "--output: dest is required for local exporter", hint="write type=local,dest=DIRECTORY"
        )
    archive = fields.switch("tar", True)
    if destination in ("", "-") and not archive:
        raise MissingFlag("--output: tar=false writes a directory, which needs dest=DIRECTORY")
    return Output(
        kind,
        destination,
        names=parse_tags(filter(None, split_csv(fields.text("name"))), "--output name"),
        format=replace(
            _layer_format(fields),
            annotations=_attribute_annotations(given),
            artifact=fields.switch("oci-artifact", artifact),
            inline=fields.switch("attestation-inline", kind == "image"),
        ),
        push=fields.switch("push", False),
        push_by_digest=fields.switch("push-by-digest", False),
        insecure=fields.switch("registry.insecure", False),
        archive=archive,
        split=fields.switch("platform-split", None),
        rewrite_timestamp=fields.switch("rewrite-timestamp", False),
        epoch=_epoch(given.get("source-date-epoch")),
        store=kind == "image" and fields.switch("store", unpack),
        unpack=unpack,
        canonical=fields.switch("name-canonical", False),
        dangling_prefix=fields.text("dangling-name-prefix"),
        context=fields.text("context"),
        delete=_deletes(fields.text("mode", "copy")),
        attestation_prefix=prefix,
    )


def _epoch(text: str | None) -> str | None:
    if text and not re.fullmatch("-?[0-9]+", text):
        raise InvalidFlag(
            f"--output: invalid source-date-epoch: {text}",
            hint="give seconds since 1970, or nothing",
        )
    return text


def _deletes(mode: str) -> bool:
    if mode not in ("copy", "delete"):
        raise InvalidFlag(
            f'--output: mode={mode}: invalid local exporter mode "{mode}"',
            hint="write copy or delete",
        )
    return mode == "delete"


def _check_attributes(kind: OutputType, keys: Iterable[str]) -> None:
    known = _ATTRIBUTES[kind]
    annotated = "compression" in known
    for key in keys:
        if key not in known and not (annotated and key.startswith("annotation")):
            raise InvalidFlag(
                f"--output: type={kind} has no attribute {key!r}",
                hint=f"it has {', '.join(sorted(known)) or 'none'}"
                + (", annotation.KEY" if annotated else ""),
            )


def _refuse_impossible(fields: Attributes) -> None:
    """Raise UsageError for attributes that exclude each other, or mean nothing here."""
    unpack = fields.switch("unpack", False)
    if unpack and fields.switch("rewrite-timestamp", False):
        raise FlagConflict("--output: rewrite-timestamp and unpack exclude each other")
    if unpack and not fields.switch("store", True):
        raise InvalidFlag(
            "--output: unpack is for images in containerd, and store=false keeps this one out",
            hint="leave store=false out",
        )
    if fields.switch("prefer-nondist-layers", False):
        raise UsageError(
            "--output prefer-nondist-layers: only images of Windows have such layers, and those"
            " are not built here",
            code="flag-not-supported",
            hint="leave it out",
        )
    version = fields.text("compatibility-version", "30")
    if version != "30":
        raise UsageError(
            f"--output compatibility-version={version}: images are those of version 30, whose"
            " default are the media types of OCI",
            code="flag-not-supported",
            hint="write oci-mediatypes=false for those of older versions",
        )


def _layer_format(fields: Attributes) -> OutputFormat:
    """What the layers of an image or of a cache are: as they are, or compressed so."""
    level = fields.integer("compression-level", None)
    force = fields.switch("force-compression", False)
    name = fields.text("compression") or ("gzip" if force or level is not None else "")
    docker = not fields.switch("oci-mediatypes", True)
    if name:
        from shipline.layer import codec  # slow to import

        codec(name, level)  # raises UsageError for others
    return OutputFormat(name, level, force, docker=docker)  # type: ignore[arg-type]


def _attribute_annotations(attributes: Mapping[str, str]) -> tuple[Annotation, ...]:
    """`annotation[-type][[platform]].key=value`"""
    found = []
    for name, value in attributes.items():
        if name.startswith("annotation"):
            match = re.match(_ANNOTATION_ATTRIBUTE, name)
            if match is None:
                raise InvalidFlag(f"--output: {name!r} is not annotation[-TYPE][[PLATFORM]].KEY")
            level, platform, key = match.groups()
            found.append(_annotation("--output", level or "manifest", platform, key, value))
    return tuple(found)


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


def _each(parse: Callable[[str], Iterable[T]], texts: Iterable[str]) -> tuple[T, ...]:
    return tuple(one for text in texts for one in parse(text))


def _unique(*found: T) -> tuple[T, ...]:
    return tuple(dict.fromkeys(found))
