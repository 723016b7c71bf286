"""Nothing goes round the outbound gate and the verifying reader (ARCHITECTURE.md, Security)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from sources import SOURCE, SourceFile, read_source, source_files

CONNECTING = {
    *("ftplib", "h2.connection", "http.client", "httpx", "requests", "smtplib", "telnetlib"),
    *("urllib.request", "urllib3", "urllib3.connection", "websockets", "xmlrpc"),
}
DIALLING = {"connect", "connect_ex", "create_connection"}

GATE = "registry/transport.py"
ELSEWHERE = {
    GATE: "the gate",
    "registry/tunnel.py": "the gate, through a proxy",
    "registry/hosts.py": "asks a loopback registry whether it speaks TLS",
    "server/hooks/outbound.py": "webhooks, which have a rule of their own for addresses",
    "metadata/redis.py": "the store that the operator named",
    "engines/docker.py": "the engine that the user named",
    "buildkit/connecting.py": "the builder that the user named",
    "grpc/connection.py": "speaks HTTP/2 over a connection that it is given",
    "kubernetes/cluster.py": "the cluster of the kubeconfig",
    "build/ssh.py": "the agent of the user",
    "net.py": "sockets of this machine",
    "cli/entry.py": "the socket of systemd",
    "sandbox/network.py": "sends nothing: asks the kernel for its address",
}
"""Who connects, and to what: never where content that was fetched has pointed to."""


def connects(file: SourceFile) -> bool:
    modules = {module for module, _ in file.imports}
    dials = "socket" in modules and bool(DIALLING & file.attributes)
    return dials or "ClientSession" in file.attributes or bool(CONNECTING & modules)


def place(file: SourceFile) -> str:
    return str(file.path.relative_to(SOURCE))


def test_only_the_gate_and_what_the_user_names_is_connected_to() -> None:
    assert {place(file) for file in source_files() if connects(file)} == ELSEWHERE.keys()


def test_the_gate_alone_has_connections() -> None:
    """What is sent passes redirects, addresses, limits and credentials of `HttpClient`."""
    using = {
        place(file)
        for file in source_files()
        if any(module == "shipline.registry.transport" for module, _ in file.imports)
        and "Transport(" in file.path.read_text()
    }
    assert using == {"registry/http.py"}


def unverified(file: SourceFile) -> Iterator[str]:
    """The implementations of Fetcher that neither verify what they read nor leave it to another."""
    text = file.path.read_text()
    for node in ast.walk(ast.parse(text)) if "def fetch(" in text else ():
        match node:
            case ast.FunctionDef(name="fetch", args=ast.arguments(args=[_, ast.arg() as target])):
                annotated = target.annotation is not None and ast.unparse(target.annotation)
                body = "\n".join(map(ast.unparse, node.body))
                fails = isinstance(node.body[-1], ast.Raise)
                abstract = ast.get_docstring(node) is not None and len(node.body) == 1
                verifies = "VerifiedReader(" in body or ".fetch(" in body
                if annotated == "Descriptor" and not (fails or abstract or verifies):
                    yield f"{file.path.name}:{node.lineno}"


def test_whatever_is_fetched_is_verified() -> None:
    assert [one for file in source_files() for one in unverified(file)] == []


def test_an_offender_is_found(tmp_path: Path) -> None:
    path = tmp_path / "offender.py"
    path.write_text(
        "import socket\nsocket.create_connection(('evil.example', 80))\n"
        "class Store:\n    def fetch(self, target: Descriptor):\n        yield open(target)\n"
    )
    file = read_source(path)
    assert connects(file) and list(unverified(file)) == ["offender.py:4"]
