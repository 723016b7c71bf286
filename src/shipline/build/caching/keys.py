"""The keys under which BuildKit's cache knows the work of a vertex.

They follow what BuildKit's Dockerfile frontend makes of each instruction and how its solver hashes
that. A vertex has several keys where BuildKit has, or had, several. Work that BuildKit does in
another way, or tells apart less well, has a key of this program's own instead: for BuildKit it is a
miss, never a wrong hit. Source: BuildKit, frontend/dockerfile/dockerfile2llb, solver/llbsolver/ops,
source/containerimage.
"""

from __future__ import annotations

import base64
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from shipline.build.base_images import BaseImage
from shipline.build.caching.document import CacheKey
from shipline.build.content_digests import ReadFiles, absolute, content_digest, own_digest, sha256
from shipline.build.graph import (
    CopyOp,
    ImageOp,
    MakeDirectoryOp,
    RunMount,
    RunOp,
    ScratchOp,
    Vertex,
    key_of,
    walk,
)
from shipline.build.placing import octal_mode
from shipline.build.request import SHM_SIZE
from shipline.build.selecting import ContextDirectory
from shipline.errors import ShiplineError
from shipline.oci import Digest, Platform

Keys = tuple[CacheKey, ...]
_Links = tuple[tuple[str, CacheKey], ...]
_NETWORKS = {"default": 0, "host": 1, "none": 2}
_MOUNTS = {"bind": 0, "secret": 1, "ssh": 2, "cache": 3, "tmpfs": 4}
_NOTHING, _NO_OUTPUT = -1, -1
_ROOT = {"dest": "/"}


class _Own(Exception):
    """BuildKit does this work in another way, or tells it apart less well."""


class _Unknown(Exception):
    """An input has no key, so that what is made of it has none either."""


def result_key(key: str, variant: str) -> CacheKey:
    """The key of a layer by the key that it has on its machine (`cache.Cache`), which names all
    that the work reads: it is found where BuildKit's keys, which name instructions, are new.
    """
    return CacheKey(f"sha256:{key_of('remote result/1', key=key, variant=variant)}")


class KeyMaker:
    """The keys of vertices. `images` and `contexts` are what is known of images and of local files;
    `variant` separates builds that make other layers from the same work.
    """

    def __init__(
        self,
        images: Mapping[ImageOp, BaseImage],
        contexts: Mapping[Vertex, ContextDirectory],
        variant: str = "",
    ) -> None:
        self._images = images
        self._contexts = contexts
        self.variant = variant
        self._known: dict[Vertex, Keys] = {}
        self._linked: dict[Vertex, Keys] = {}
        self.read = ReadFiles()

    def keys(self, vertex: Vertex) -> Keys:
        """All keys of the vertex; none where it has none, as a local directory."""
        for one in walk(vertex):
            if one not in self._known:
                self._known[one] = self._keys(one)
        return self._known[vertex]

    def linked(self, vertex: Vertex) -> Keys:
        """The keys of the layer of a COPY --link, whatever is below it; none for other vertices."""
        self.keys(vertex)
        return self._linked.get(vertex, ())

    def _keys(self, vertex: Vertex) -> Keys:
        match vertex.op:
            case ImageOp():
                return self._of_image(vertex.op)
            case RunOp() | CopyOp() | MakeDirectoryOp():
                try:
                    return self._of_step(vertex)
                except (_Unknown, ShiplineError, OSError):  # the step itself will say what is wrong
                    return ()
        return ()

    def _of_image(self, op: ImageOp) -> Keys:
        """Two: the digest that the image was resolved to, and the layers that it has."""
        image = self._images[op]
        platform = image.config.platform
        found = {
            "Digest": str(image.reference.digest),
            "OS": platform.os,
            "Arch": platform.architecture,
            "Variant": platform.variant,
            "OSVersion": platform.os_version,
            "OSFeatures": list(platform.os_features),
        }
        texts = [sha256(_go_json({key: value for key, value in found.items() if value}))]
        if image.layers:
            texts.append(chain_id([layer.diff_id for layer in image.layers]))
        return tuple(_record(sha256(f"buildkit.source.v0:{text}")) for text in texts)

    def _of_step(self, vertex: Vertex) -> Keys:
        if not self.variant:
            try:
                match vertex.op:
                    case RunOp():
                        return self._run(vertex, vertex.op)
                    case CopyOp():
                        return self._copy(vertex, vertex.op)
                    case MakeDirectoryOp():
                        return self._directory(vertex, vertex.op)
            except (_Own, KeyError, UnicodeError):
                pass
        return self._own(vertex)

    def _own(self, vertex: Vertex) -> Keys:
        op = vertex.op
        inputs = []
        for number, one in enumerate(vertex.inputs):
            if one not in self._contexts:
                inputs.append(self._links(one, ""))
                continue
            if isinstance(op, CopyOp):
                paths = tuple(path for path, source in op.inputs_of_sources() if source == number)
                digest = own_digest(self._contexts[one], paths, op.excludes, self.read)
            else:
                assert isinstance(op, RunOp)
                paths = tuple(each.source for each in op.mounts if each.input == number)
                digest = own_digest(self._contexts[one], paths, (), self.read)
            inputs.append((("", _content(digest)),))
        digest = f"sha256:{key_of('remote/1', op=op.key(), variant=self.variant)}"
        if isinstance(op, CopyOp) and op.link and self._is_independent(vertex, op):
            self._linked[vertex] = _step(digest, [one for one in inputs[1:] if one != _SCRATCH])
        return _step(digest, [one for one in inputs if one != _SCRATCH])

    def _links(self, vertex: Vertex, selector: str) -> _Links:
        """The links to an input by what it is; `_SCRATCH` for nothing. Raises _Unknown for
        one without keys.
        """
        if isinstance(vertex.op, ScratchOp):
            return _SCRATCH
        keys = self._known[vertex]
        if not keys:
            raise _Unknown
        return tuple((selector, one) for one in keys)

    def _directory(self, vertex: Vertex, op: MakeDirectoryOp) -> Keys:
        base = self._links(vertex.inputs[0], "")
        action = {
            "path": op.path,
            "mode": 0o755,
            "makeParents": True,
            "owner": _owner(op.user),
            "timestamp": op.timestamp,
        }
        return _file_op([(action, _NOTHING)], [base])

    def _copy(self, vertex: Vertex, op: CopyOp) -> Keys:
        if op.parents or op.excludes or (op.files and len(vertex.inputs) > 1) or vertex.inputs[2:]:
            raise _Own
        if op.link and not self._is_independent(vertex, op):
            raise _Own
        octal = octal_mode(op.chmod)
        common = {
            "dest": op.destination,
            "owner": _owner(op.chown),
            "mode": -1 if not op.chmod else octal or 0,
            "createDestPath": True,
            "timestamp": -1,
            "modeStr": op.chmod if octal is None else "",
        }
        base = vertex.inputs[0]
        below = _SCRATCH if op.link else self._links(base, "")
        if op.files:
            actions, sources = self._inline_files(op, common)
        else:
            actions, sources = self._sources(vertex.inputs[1], op, common)
            if vertex.inputs[1] == base:
                raise _Own
        first = 0 if below == _SCRATCH else 1
        numbered = [(_ordered(action), first + number) for action, number in actions]
        copied = _file_op(numbered, [below, *sources])
        if not op.link or isinstance(base.op, ScratchOp):
            return copied
        self._linked[vertex] = copied
        merged = {"Type": "buildkit.merge.v0", "Merge": {"inputs": [{}, {"input": 1}]}}
        inputs = [self._links(base, ""), tuple(("", one) for one in copied)]
        return _step(sha256(_go_json(merged)), inputs)

    def _sources(
        self, source: Vertex, op: CopyOp, common: dict[str, Any]
    ) -> tuple[list[tuple[dict[str, Any], int]], list[_Links]]:
        """A copy of each source, all from one input."""
        paths = [absolute(one) for one in op.sources]
        more = {
            "followSymlink": True,
            "dirCopyContents": True,
            "attemptUnpackDockerCompatibility": op.unpack != "never",
            "allowWildcard": True,
            "allowEmptyWildcard": True,
        }
        actions = [
            ({**common, **more, "src": posixpath.basename(path) or "/"}, 0) for path in paths
        ]
        selector = sha256("\0".join(sorted(paths, reverse=True)))
        return actions, [self._selected(source, paths, selector)]

    def _inline_files(
        self, op: CopyOp, common: dict[str, Any]
    ) -> tuple[list[tuple[dict[str, Any], int]], list[_Links]]:
        """A copy of each here-document, which BuildKit makes in a directory of its own first."""
        actions, links = [], []
        for number, (name, text) in enumerate(op.files):
            content = base64.b64encode(text.encode()).decode()
            made = {"path": f"/{name}", "mode": 0o644, "data": content, "timestamp": -1}
            keys = _file_op([(made, _NOTHING)], [_SCRATCH])
            links.append(tuple((sha256(f"/{name}"), one) for one in keys))
            actions.append(({**common, "src": name}, number))
        return actions, links

    def _selected(self, source: Vertex, paths: list[str], selector: str) -> _Links:
        """The links to the paths of a source: by content for local files."""
        if source in self._contexts:
            files = self._contexts[source]
            if files.stamp or files.remote:
                raise _Own
            return (("", _content(content_digest(files, paths, self.read))),)
        links = self._links(source, selector)
        if links == _SCRATCH:
            raise _Own
        return links

    def _is_independent(self, vertex: Vertex, op: CopyOp) -> bool:
        """Whether the layer of a COPY --link is the same on any base: it needs no file below it to
        look up a name, and is not for Windows, where BuildKit writes one that cannot be used.
        """
        *_, bottom = vertex.chain()
        image = self._images[bottom.op] if isinstance(bottom.op, ImageOp) else None
        is_plain = image is None or not any(layer.windows for layer in image.layers)
        return is_plain and (not op.chown or _is_numeric(op.chown))

    def _run(self, vertex: Vertex, op: RunOp) -> Keys:
        limited = op.ulimits or op.resources.cgroup_parent
        if op.hosts or op.script[0] or limited or op.devices:
            raise _Own
        base = self._links(vertex.inputs[0], sha256("/"))
        inputs = [] if base == _SCRATCH else [base]
        mounts = [dict(_ROOT) if inputs else {"input": _NOTHING, **_ROOT}]
        if op.shm_size != SHM_SIZE:
            mounts.append(_mount(_NOTHING, "/dev/shm", "tmpfs", TmpfsOpt={"size": op.shm_size}))
        secrets, more = [], _MountInputs(len(inputs))
        for one in sorted(op.mounts, key=lambda mount: mount.target):
            if one.type == "secret" and one.env:
                secrets.append(_some({"ID": one.id, "name": one.env, "optional": not one.required}))
            if one.target or not one.env:
                mounts.append(_run_mount(one, more.number_of(one)))
        for mount, paths in more.selected():
            selector = sha256("\0".join(paths))
            if mount.input:
                inputs.append(self._selected(vertex.inputs[mount.input], paths, selector))
            else:
                inputs.append(tuple((selector, key) for key in _cache_directory(mount)))
        return tuple(
            key for digest in _exec_digests(op, mounts, secrets) for key in _step(digest, inputs)
        )


class _MountInputs:
    """The inputs of a command besides its root, in the order in which mounts name them."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._found: dict[object, tuple[RunMount, list[str]]] = {}

    def number_of(self, mount: RunMount) -> int:
        """The number of the input that the mount shows, -1 for none."""
        owned = mount.type == "cache" and mount.owned and not mount.input
        if not mount.input and not owned:
            return _NOTHING
        name: object = mount.input or (mount.mode, mount.uid, mount.gid)
        found = self._found.setdefault(name, (mount, []))
        found[1].append("/cache" if owned else absolute(mount.source))
        return self._first + list(self._found).index(name)

    def selected(self) -> Iterator[tuple[RunMount, list[str]]]:
        """A mount of each input, and the paths of it that are mounted."""
        yield from self._found.values()


def _cache_directory(mount: RunMount) -> Keys:
    """The directory that BuildKit makes for a cache with an owner or a mode."""
    owner = {
        kind: {"User": _some({"byId": number})}
        for kind, number in (("user", mount.uid), ("group", mount.gid))
    }
    made = {"path": "/cache", "mode": mount.mode, "owner": owner, "timestamp": -1}
    return _file_op([(made, _NOTHING)], [_SCRATCH])


_SCRATCH: _Links = ()


def chain_id(diff_ids: Iterable[Digest]) -> str:
    """The identity of a stack of layers (config.md, "Layer ChainID")."""
    chain = ""
    for one in diff_ids:
        chain = sha256(f"{chain} {one}") if chain else str(one)
    return chain


def _exec_digests(
    op: RunOp, mounts: list[dict[str, Any]], secrets: list[dict[str, Any]]
) -> list[str]:
    platform = Platform.parse(op.platform)
    meta = {
        "args": list(op.args),
        "env": list(op.env),
        "cwd": op.cwd,
        "user": op.user,
        "hostname": op.hostname,
        "removeMountStubsRecursive": True,
    }
    alone = len(mounts) == 1
    encodings = [mounts] if alone else [mounts, [_older(one) for one in mounts]]
    found = []
    for encoding in encodings:
        execution = {
            "meta": _some(meta),
            "mounts": [] if alone else encoding,
            "network": _NETWORKS[op.network],
            "security": int(op.insecure),
            "secretenv": secrets,
        }
        described = {
            "Type": "buildkit.exec.v0",
            "Exec": _some(execution),
            "OS": platform.os,
            "Arch": platform.architecture,
        }
        more = {"Variant": platform.variant, "OSVersion": platform.os_version}
        found.append(sha256(_go_json(described | _some(more))))
    return found


def _run_mount(mount: RunMount, number: int) -> dict[str, Any]:
    if mount.type == "bind":
        if not number or number == _NOTHING:
            raise _Own
        return _mount(number, mount.target, "bind", readonly=mount.read_only)
    if mount.type == "tmpfs" and not mount.read_only:
        return _mount(_NOTHING, mount.target, "tmpfs", TmpfsOpt=_some({"size": mount.size}))
    if mount.type == "cache" and not (mount.input or mount.source or mount.read_only):
        identity = mount.id if mount.id != mount.target else f"/{mount.target}"
        usual = identity.partition("/")[2] == mount.target and mount.sharing == "shared"
        named = {"ID": identity} if usual else {}
        return _mount(number, mount.target, "cache", cacheOpt=named)
    if mount.type == "secret":
        secret = {
            "ID": mount.id,
            "uid": mount.uid,
            "gid": mount.gid,
            "mode": mount.mode,
            "optional": not mount.required,
        }
        found = _mount(_NOTHING, mount.target, "secret", secretOpt=_some(secret))
        del found["output"]
        return found
    raise _Own


def _mount(
    number: int, target: str, kind: str, *, readonly: bool = False, **options: dict[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {"input": number, "dest": target, "output": _NO_OUTPUT}
    if readonly:
        found["readonly"] = True
    if _MOUNTS[kind]:
        found["mountType"] = _MOUNTS[kind]
    return found | options


_COPY_FIELDS = (
    *("src", "dest", "owner", "mode", "followSymlink", "dirCopyContents"),
    *("attemptUnpackDockerCompatibility", "createDestPath", "allowWildcard", "allowEmptyWildcard"),
    *("timestamp", "modeStr"),
)


def _ordered(action: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a copy in the order of BuildKit's protocol."""
    return {name: action[name] for name in _COPY_FIELDS if name in action}


def _older(mount: dict[str, Any]) -> dict[str, Any]:
    """The mount as BuildKit wrote it before 0.19, with inputs and outputs that are 0."""
    rest = {key: value for key, value in mount.items() if key not in ("input", "dest", "output")}
    is_secret = mount.get("mountType") == _MOUNTS["secret"]
    numbers = {"input": 0 if is_secret else mount.get("input", 0), "dest": mount["dest"]}
    return {**numbers, "output": mount.get("output", 0), **rest}


def _file_op(actions: list[tuple[dict[str, Any], int]], inputs: list[_Links]) -> Keys:
    """A file operation: actions on the first input, one after the other; each has the number of the
    input that it reads from besides, -1 for none.
    """
    linked = [one for one in inputs if one != _SCRATCH]
    first = _NOTHING if inputs[0] == _SCRATCH else 0
    indexes = []
    for position, (_, secondary) in enumerate(actions):
        input_ = first if not position else len(linked) + position - 1
        output = 0 if position == len(actions) - 1 else _NOTHING
        indexes.append([input_, secondary, output])
    usual = first == 0 and all(secondary in (1, _NOTHING) for _, secondary in actions)
    forms = [[_some(one) for one, _ in actions], [_some(_older_owner(one)) for one, _ in actions]]
    found: list[CacheKey] = []
    for form in forms if forms[0] != forms[1] else forms[:1]:
        encoded = [base64.b64encode(_go_json(one).encode()).decode() for one in form]
        described: dict[str, Any] = {"Type": "buildkit.file.v0", "Actions": encoded}
        if not usual:
            described["indexes"] = indexes
        found += _step(sha256(_go_json(described)), linked)
    return tuple(found)


def _older_owner(action: Mapping[str, Any]) -> Mapping[str, Any]:
    """The action with its owner as BuildKit wrote it before 0.19."""
    owner = action.get("owner")
    if not owner:
        return action
    older = {}
    for kind, one in owner.items():
        account = dict(one["User"])
        if "byId" in account:
            account["byID"] = account.pop("byId")
        if "byName" in account:
            account["byName"] = {**account["byName"], "input": 0}
        older[kind] = {"User": account}
    return {**action, "owner": older}


def _step(digest: str, inputs: Iterable[_Links]) -> Keys:
    return (CacheKey(sha256(f"{digest}@0"), tuple(inputs)),)


def _record(digest: str) -> CacheKey:
    return CacheKey(sha256(f"{digest}@0"))


def _content(digest: str) -> CacheKey:
    """The record of content; its digest is that of the texts of all digests, even of one."""
    return CacheKey(sha256(f"{digest}@-1"))


def _owner(text: str) -> dict[str, Any] | None:
    """The owner of `--chown` and of USER."""
    if not text:
        return None
    user, colon, group = text.partition(":")
    found = {"user": {"User": _account(user)}}
    return found | ({"group": {"User": _account(group)}} if colon and group else {})


def _account(name: str) -> dict[str, Any]:
    if name in ("root", "0"):
        return {}
    if name.isascii() and name.isdigit():
        return {"byId": int(name)}
    return {"byName": {"name": name}}


def _is_numeric(owner: str) -> bool:
    return all(one.isascii() and one.isdigit() for one in owner.split(":"))


def _some(value: Mapping[str, Any]) -> dict[str, Any]:
    """Without fields that Go leaves out: false, 0, empty texts and lists."""
    return {key: one for key, one in value.items() if one or isinstance(one, dict)}


def _go_json(value: object) -> str:
    """JSON as Go's encoding/json writes it. Raises UnicodeError for text that is not Unicode."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text.encode()
    for one in "<>&\u2028\u2029":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return text
