"""The build graph as BuildKit's provenance shows it: numbered steps of LLB, as JSON.

The fields are those of solver/pb/ops.proto in the JSON that Go makes of them. Digests are those of
the JSON: they connect the parts of one document, and equal BuildKit's nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from shipline.build.graph import (
    MAIN_CONTEXT,
    ContextOp,
    CopyOp,
    GitOp,
    HttpOp,
    ImageOp,
    MakeDirectoryOp,
    RunMount,
    RunOp,
    ScratchOp,
    Vertex,
    walk,
)
from shipline.build.request import SHM_SIZE
from shipline.errors import Span
from shipline.oci import Platform

if TYPE_CHECKING:
    from shipline.git import GitSource

Json = dict[str, Any]

_MOUNTS = {"bind": 0, "secret": 1, "ssh": 2, "cache": 3, "tmpfs": 4}
_LATER = {"secret": 1, "ssh": 2}
"""Mounts that BuildKit writes after all others."""
_SHARING = {"shared": 0, "private": 1, "locked": 2}
_NETWORKS = {"host": 1, "none": 2}
_MODES = {"secret": 0o400, "ssh": 0o600}
_NO_INPUT = -1


class Definition(Struct, frozen=True):
    """Steps in the order of the graph; `places` has where each is written, `outputs` the step that
    is the result of a vertex.
    """

    steps: tuple[Json, ...]
    digests: Mapping[str, str]
    places: Mapping[str, Span | None]
    outputs: Mapping[Vertex, str]

    def to_json(self) -> Json:
        """The fields `llbDefinition` and `digestMapping`."""
        return {"llbDefinition": list(self.steps), "digestMapping": dict(self.digests)}

    def locations(self) -> Json:
        """For each step the lines of the Dockerfile that it comes from."""
        return {step: _lines(span) for step, span in self.places.items()}


def define(root: Vertex, image_of: Callable[[ImageOp], tuple[str, Platform]]) -> Definition:
    """The steps that make `root`; `image_of` gives the identifier with its digest,
    and the platform.
    """
    built = _Steps()
    outputs: dict[Vertex, str] = {}
    for vertex in walk(root):
        outputs[vertex] = _add(vertex, outputs, built, image_of)
    last = [f"{outputs[root]}:0"] if outputs[root] else []
    built.add({"Op": {}}, last, None, located=False)
    return Definition(tuple(built.steps), built.digests, built.places, outputs)


def define_files(sources: list[str]) -> Json:
    """The definition of reading the Dockerfile, one of `sources`, from its directory."""
    built = _Steps()
    attributes = {
        "local.differ": "none",
        "local.followpaths": json.dumps(sources, separators=(",", ":")),
        "local.sharedkeyhint": "dockerfile",
    }
    step = built.add(_source("local://dockerfile", attributes), [], None)
    built.add({"Op": {}}, [f"{step}:0"], None)
    return {"llbDefinition": built.steps, "digestMapping": built.digests}


class _Steps(Struct):
    steps: list[Json] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    places: dict[str, Span | None] = field(default_factory=dict)

    def add(self, op: Json, inputs: list[str], span: Span | None, *, located: bool = True) -> str:
        """Append a step; its name."""
        name = f"step{len(self.steps)}"
        content = json.dumps([op, inputs], sort_keys=True).encode()
        self.steps.append({"id": name, "op": op, **({"inputs": inputs} if inputs else {})})
        self.digests[f"sha256:{hashlib.sha256(content).hexdigest()}"] = name
        if located:
            self.places[name] = span
        return name


def _add(
    vertex: Vertex,
    outputs: Mapping[Vertex, str],
    built: _Steps,
    image_of: Callable[[ImageOp], tuple[str, Platform]],
) -> str:
    """The step of `vertex`, all whose inputs have theirs; empty for scratch."""
    span = vertex.label.span
    steps = [outputs[one] for one in vertex.inputs]
    match vertex.op:
        case ImageOp():
            name, platform = image_of(vertex.op)
            op = {**_source(name), "platform": _platform(platform)}
            return built.add(op, [], span)
        case ContextOp(name):
            hint = name if name == MAIN_CONTEXT else f"{MAIN_CONTEXT}:{name}"
            return built.add(_source(f"local://{name}", {"local.sharedkeyhint": hint}), [], None)
        case GitOp(source):
            return built.add(_repository(source), [], None)
        case HttpOp(url, name, checksum):
            attributes = {"http.checksum": checksum} if checksum else {}
            return built.add(_source(url, {**attributes, "http.filename": name}), [], None)
        case MakeDirectoryOp():
            made = vertex.op
            action = {"path": made.path, "mode": 0o755, "makeParents": True}
            action["timestamp"] = made.timestamp
            return built.add(*_file_op([{"mkdir": action}], steps[:1]), span)
        case CopyOp():
            return _copy(vertex, vertex.op, steps, built)
        case RunOp():
            return built.add(*_exec(vertex.op, steps, built), span)
    assert isinstance(vertex.op, ScratchOp)
    return ""


def _source(identifier: str, attributes: Mapping[str, str] | None = None) -> Json:
    source: Json = {"identifier": identifier}
    if attributes:
        source["attrs"] = dict(attributes)
    return {"Op": {"source": source}, "constraints": {}}


def _repository(source: GitSource) -> Json:
    where = source.remote.partition("://")[2] or source.remote.replace(":", "/", 1)
    fragment = f"{source.ref}:{source.subdir}" if source.subdir else source.ref
    attributes = {
        "git.authheadersecret": "GIT_AUTH_HEADER",
        "git.authtokensecret": "GIT_AUTH_TOKEN",
        "git.checksum": source.checksum,
        "git.fullurl": source.remote,
        "git.keepgitdir": "true" if source.keep_git_dir else "",
        "git.mountsshsock": "default" if source.is_ssh else "",
        "git.skipsubmodules": "" if source.submodules else "true",
    }
    given = {name: value for name, value in attributes.items() if value}
    return _source(f"git://{where}{'#' if fragment else ''}{fragment}", given)


def _copy(vertex: Vertex, op: CopyOp, steps: list[str], built: _Steps) -> str:
    """One action for each source; a file that is written in the Dockerfile is a step of its own."""
    base = steps[0]
    made = [built.add(*_file_of_text(name, content), None) for name, content in op.files]
    named = [
        (steps[number], path, not isinstance(vertex.inputs[number].op, HttpOp))
        for path, number in op.inputs_of_sources()
    ]
    named += [(step, name, False) for step, (name, _) in zip(made, op.files, strict=True)]
    inputs = list(dict.fromkeys(filter(None, [base, *(step for step, _, _ in named)])))
    actions: list[Json] = []
    for number, (step, path, listed) in enumerate(named):
        upper = len(inputs) + number - 1 if number else _index(base, inputs)
        action = {"copy": _copied(op, path, listed=listed)}
        last = number == len(named) - 1
        actions.append(_action(action, upper, _index(step, inputs), 0 if last else _NO_INPUT))
    op_json = {"Op": {"file": {"actions": actions}}, "constraints": {}}
    return built.add(op_json, [f"{one}:0" for one in inputs], vertex.label.span)


def _copied(op: CopyOp, path: str, *, listed: bool) -> Json:
    """`listed` is for sources of a context or stage: directories and wildcards."""
    found: Json = {
        "src": posixpath.normpath("/" + path.lstrip("/")),
        "dest": op.destination,
        "mode": -1,
        "createDestPath": True,
        "timestamp": -1,
    }
    if listed:
        found |= {
            "followSymlink": True,
            "dirCopyContents": True,
            "allowWildcard": True,
            "allowEmptyWildcard": True,
        }
    if op.chown:
        found["owner"] = _owner(op.chown)
    if op.chmod:
        found |= _mode(op.chmod)
    if op.excludes:
        found["exclude_patterns"] = list(op.excludes)
    if op.unpack == "archives" or (listed and op.unpack == "local archives"):
        found["attemptUnpackDockerCompatibility"] = True
    return found


def _mode(chmod: str) -> Json:
    try:
        return {"mode": int(chmod, 8)}
    except ValueError:
        return {"mode": -1, "modeStr": chmod}


def _owner(chown: str) -> Json:
    user, _, group = chown.partition(":")
    found = {"user": _account(user)}
    return {**found, "group": _account(group)} if group else found


def _account(name: str) -> Json:
    return {"User": {"byId": int(name)} if name.isdecimal() else {"byName": {"name": name}}}


def _file_of_text(name: str, content: str) -> tuple[Json, list[str]]:
    data = base64.b64encode(content.encode(errors="surrogateescape")).decode("ascii")
    action = {"path": f"/{name}", "mode": 0o644, "data": data, "timestamp": -1}
    return _file_op([{"mkfile": action}], [])


def _file_op(actions: list[Json], steps: list[str]) -> tuple[Json, list[str]]:
    inputs = [f"{one}:0" for one in steps if one]
    upper = 0 if inputs else _NO_INPUT
    found = [_action(one, upper, _NO_INPUT, 0) for one in actions]
    return {"Op": {"file": {"actions": found}}, "constraints": {}}, inputs


def _action(action: Json, upper: int, second: int, output: int) -> Json:
    return {"input": upper, "secondaryInput": second, "output": output, "Action": action}


def _index(step: str, inputs: list[str]) -> int:
    return inputs.index(step) if step else _NO_INPUT


def _exec(op: RunOp, steps: list[str], built: _Steps) -> tuple[Json, list[str]]:
    name, content = op.script
    script = built.add(*_file_of_text(name, content), None) if name else ""
    inputs = list(dict.fromkeys(filter(None, [*steps, script])))
    meta: Json = {"args": [*op.args], "env": [*op.env], "cwd": op.cwd}
    meta |= _present(_meta(op))
    mounts: list[Json] = [{"dest": "/", **_input(_index(steps[0], inputs))}]
    variables = [one for one in op.mounts if one.env and not one.target]
    wanted = [one for one in op.mounts if one not in variables]
    if op.shm_size not in (0, SHM_SIZE):
        wanted.append(RunMount("tmpfs", "/dev/shm", size=op.shm_size))
    made = ((_LATER.get(one.type, 0), _mount(one, steps, inputs)) for one in wanted)
    mounts += [one for _, one in sorted(made, key=lambda pair: (pair[0], pair[1]["dest"]))]
    if script:
        place = _input(_index(script, inputs))
        mounts.append({"dest": "/dev/pipes/", **place, "output": _NO_INPUT, "readonly": True})
    found: Json = {"meta": meta, "mounts": mounts}
    if variables:
        found["secretenv"] = [
            _present({"ID": one.id, "name": one.env, "optional": not one.required})
            for one in variables
        ]
    if op.network in _NETWORKS:
        found["network"] = _NETWORKS[op.network]
    if op.insecure:
        found["security"] = 1
    if op.devices:
        found["cdiDevices"] = [{"name": name} for name in op.devices]
    platform = _platform(Platform.parse(op.platform))
    step = {"Op": {"exec": found}, "platform": platform, "constraints": {}}
    return step, [f"{one}:0" for one in inputs]


def _meta(op: RunOp) -> Json:
    hosts = [{"Host": name, "IP": address} for name, address in op.hosts]
    limits = [{"Name": one.name, "Soft": one.soft, "Hard": one.hard} for one in op.ulimits]
    proxies = {}
    for text in op.proxies:
        name, _, value = text.partition("=")
        proxies[name.lower()] = value
    return {
        "user": op.user,
        "hostname": op.hostname,
        "extraHosts": hosts,
        "ulimit": limits,
        "proxy_env": proxies,
        "cgroupParent": op.resources.cgroup_parent,
        "removeMountStubsRecursive": True,
    }


def _mount(mount: RunMount, steps: list[str], inputs: list[str]) -> Json:
    index = _index(steps[mount.input], inputs) if mount.input else _NO_INPUT
    target = mount.target or f"/run/secrets/{mount.id}"
    found: Json = {"dest": target, **_input(index)}
    if mount.source:
        found["selector"] = mount.source
    if mount.type not in ("secret", "ssh"):
        found["output"] = _NO_INPUT
        found |= {"readonly": True} if mount.read_only else {}
    if kind := _MOUNTS.get(mount.type):
        found["mountType"] = kind
    mode = mount.mode or _MODES.get(mount.type, 0)
    rights = {"ID": mount.id, "uid": mount.uid, "gid": mount.gid, "mode": mode}
    optional = {"optional": not mount.required}
    match mount.type:
        case "cache":
            sharing = _SHARING.get(mount.sharing, 0)
            name = mount.id or mount.target
            if name.startswith("/") or "/" not in name:  # no namespace before it
                name = f"/{name}"
            found["cacheOpt"] = _present({"ID": name, "sharing": sharing})
        case "tmpfs":
            found["TmpfsOpt"] = _present({"size": mount.size})
        case "secret":
            found["secretOpt"] = _present({**rights, **optional})
        case "ssh":
            usual = {"ID": ""} if mount.id == "default" else {}
            found["SSHOpt"] = _present({**rights, **usual, **optional})
    return found


def _input(index: int) -> Json:
    """Zero is not written."""
    return {"input": index} if index else {}


def _present(values: Json) -> Json:
    return {key: value for key, value in values.items() if value}


def _platform(platform: Platform) -> Json:
    found = {"Architecture": platform.architecture, "OS": platform.os}
    return {**found, "Variant": platform.variant} if platform.variant else found


def _lines(span: Span | None) -> Json:
    if span is None:
        return {}
    lines = range(span.line, max(span.line, span.end) + 1)
    ranges = [{"start": {"line": line}, "end": {"line": line}} for line in lines]
    return {"locations": [{"ranges": ranges}]}


def secrets_of(vertices: Iterable[Vertex]) -> Json:
    """The fields `secrets` and `ssh`: what the commands of the graph mount, by id."""
    found: dict[str, dict[str, Json]] = {"secrets": {}, "ssh": {}}
    for vertex in vertices:
        for mount in vertex.op.mounts if isinstance(vertex.op, RunOp) else ():
            if mount.type in ("secret", "ssh"):
                kind = "ssh" if mount.type == "ssh" else "secrets"
                name = mount.id or ("default" if mount.type == "ssh" else mount.target)
                known = found[kind].get(name, {"optional": True})
                optional = known["optional"] and not mount.required
                found[kind][name] = {"id": name, "optional": optional}
    return {
        kind: [one if one["optional"] else {"id": one["id"]} for _, one in sorted(entries.items())]
        for kind, entries in found.items()
        if entries
    }
