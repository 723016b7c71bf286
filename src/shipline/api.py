"""The Python API: what the command line does, as functions on the same values.

    from shipline import api

    api.copy("docker.io/library/alpine:3.23", "registry.example/alpine:3.23")
    request = api.parse_request("examples/hello", os.environ, output=["type=oci,dest=hello.tar"])
    result = api.build(request)

Every function raises the exceptions of `shipline.errors` and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from shipline.build import (
    BuildRequest,
    BuildResult,
    Context,
    ContextKind,
    Output,
    OutputFormat,
    Settings,
    parse_request,
)
from shipline.build import build as _build
from shipline.cachestores import open_cache
from shipline.content import OciLayout, Repository, copy_graph, fetch_document
from shipline.events import Step, silent
from shipline.home import state_directory
from shipline.oci import Descriptor, Index, Manifest, Reference
from shipline.registry import Client
from shipline.sandbox import enter_user_namespace

__all__ = [
    "LAYOUT",
    "BuildRequest",
    "BuildResult",
    "Context",
    "ContextKind",
    "Index",
    "Manifest",
    "Output",
    "OutputFormat",
    "build",
    "copy",
    "enter_user_namespace",
    "inspect",
    "open_client",
    "parse_request",
    "push",
    "state_directory",
]

LAYOUT = "oci-layout://"
"""The prefix of a path to an OCI image layout, instead of a registry."""


def open_client(*insecure: str, ca: Iterable[Path] = ()) -> Client:
    """A registry client with this machine's credentials, mirrors and proxies.

    `insecure` hosts use plain HTTP, `ca` names files of additional CAs. Close it, or use it as a
    context manager.
    """
    return Client.of(os.environ, insecure=insecure, ca=ca)


def build(
    request: BuildRequest,
    *,
    home: Path | None = None,
    client: Client | None = None,
    step: Step | None = None,
) -> BuildResult:
    """Build a Dockerfile and deliver it to the outputs of `request`.

    `step` receives the events; `home` is the state directory. When this raises, no tag was moved.
    As an ordinary user, call `enter_user_namespace` before starting any thread: without it, only
    builds that need no mounts work.
    """
    with ExitStack() as stack:
        client = client or stack.enter_context(open_client())
        step = step or stack.enter_context(silent("build"))
        settings = Settings(
            *(home or state_directory(), client.repository, os.environ, client.get),
            open_cache=open_cache(client, os.environ),
        )
        return _build(request, settings, step)


def inspect(reference: str, *, client: Client | None = None) -> Manifest | Index:
    """The manifest or index behind a reference, with the bytes that its digest names."""
    with ExitStack() as stack:
        client = client or stack.enter_context(open_client())
        repository, name = _open(reference, client)
        target = repository.resolve(name)
        return fetch_document(repository, target)


def copy(source: str, destination: str, *, client: Client | None = None) -> Descriptor:
    """Copy an image with everything that it references; the destination is tagged last.

    Both are references, or `oci-layout://PATH:NAME`. Bytes and digests are preserved.
    """
    with ExitStack() as stack:
        client = client or stack.enter_context(open_client())
        source_repository, name = _open(source, client)
        target = source_repository.resolve(name)
        target_repository, tag = _open(destination, client, create=True)
        copy_graph(source_repository, target_repository, target)
        target_repository.tag(target, source_repository, tag or "latest")
        return target


def push(layout: Path, destination: str, *, name: str = "") -> Descriptor:
    """Push an image from an OCI image layout; `name` picks one of several."""
    return copy(f"{LAYOUT}{layout}" + (f":{name}" if name else ""), destination)


def _open(text: str, client: Client, *, create: bool = False) -> tuple[Repository, str]:
    """The repository of `text`, and the tag or digest in it."""
    if text.startswith(LAYOUT):
        path, name = _split(text.removeprefix(LAYOUT))
        return OciLayout(Path(path), create=create), name
    reference = Reference.parse(text).or_latest
    return client.repository(reference), str(reference.digest or reference.tag)


def _split(text: str) -> tuple[str, str]:
    path, at, digest = text.partition("@")
    if at:
        return path, digest
    head, colon, tail = text.rpartition(":")
    return (head, tail) if colon and "/" not in tail else (text, "")
