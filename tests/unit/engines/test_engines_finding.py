"""Which engine is used, and how it is reached: a server plays Docker's API."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import pytest

from peers.registry import certificate
from serving import ReceivedRequest, Reply, Served, serving
from shipline import sandbox
from shipline.engines import EngineError, LoadableImage, find_engine, finding
from shipline.oci import Descriptor

LIMIT = 16 << 20  # bytes of an archive here


class Engine:
    """Answers as Docker does; `loaded` are the archives that it took."""

    def __init__(self) -> None:
        self.loaded: list[bytes] = []
        self.answer: Reply = 200, {}, b'{"stream":"Loaded image: x"}\n'

    def __call__(self, request: ReceivedRequest) -> Reply:
        if request.path == "/info":
            driver = [["driver-type", "io.containerd.snapshotter.v1"]]
            return 200, {}, json.dumps({"DriverStatus": driver}).encode()
        assert (request.method, request.path) == ("POST", "/images/load")
        self.loaded.append(request.all())
        return self.answer


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def server(engine: Engine) -> Iterator[Served]:
    with serving(engine) as running:
        yield running


def image(*chunks: bytes) -> LoadableImage:
    target = Descriptor.of(b"{}", "application/json")
    return LoadableImage(
        ("x",), target, {}, (), lambda: iter(chunks), lambda _: nullcontext(BytesIO())
    )


def tcp(served: Served) -> str:
    return f"tcp://{served.host}"


def context(config: Path, name: str, url: str) -> Path:
    """Make a context of docker's command; returns the directory for its certificates."""
    directory = hashlib.sha256(name.encode()).hexdigest()
    meta = config / "contexts/meta" / directory
    meta.mkdir(parents=True)
    document = {"Name": name, "Endpoints": {"docker": {"Host": url, "SkipTLSVerify": False}}}
    (meta / "meta.json").write_text(json.dumps(document))
    return config / "contexts/tls" / directory / "docker"


def test_an_archive_of_any_size_is_sent_in_chunks(server: Served, engine: Engine) -> None:
    found = find_engine({"DOCKER_HOST": tcp(server)})
    assert found.several
    found.load(image(b"a" * 70_000, b"b", b"c" * 70_000))
    assert engine.loaded == [b"a" * 70_000 + b"b" + b"c" * 70_000]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, {}, b'{"stream":"x"}\n{"error":"no room"}\n'), "no room"),
        ((500, {}, b'{"message":"bad archive"}'), "bad archive"),
        ((404, {}, b"<html>"), "<html>"),
        ((200, {}, b"<html>"), "not an engine"),
    ],
)
def test_what_an_engine_refuses_is_said(
    server: Served, engine: Engine, answer: Reply, said: str
) -> None:
    engine.answer = answer
    with pytest.raises(EngineError, match=said):
        find_engine({"DOCKER_HOST": tcp(server)}).load(image(b"x"))


def test_variables_come_before_contexts_and_those_before_podman(
    server: Served, engine: Engine, tmp_path: Path
) -> None:
    for name in ("current", "chosen", "asked"):
        context(tmp_path, name, f"unix:///nowhere/{name}")
    (tmp_path / "config.json").write_text('{"currentContext": "current"}')
    variables = {"DOCKER_CONFIG": str(tmp_path), "CONTAINER_HOST": "unix:///nowhere/podman"}
    with pytest.raises(EngineError, match="/nowhere/current"):
        find_engine(variables)
    with pytest.raises(EngineError, match="/nowhere/chosen"):
        find_engine({**variables, "DOCKER_CONTEXT": "chosen"})
    find_engine({**variables, "DOCKER_CONTEXT": "chosen", "DOCKER_HOST": tcp(server)})
    with pytest.raises(EngineError, match="/nowhere/asked"):
        find_engine({**variables, "DOCKER_HOST": tcp(server)}, "asked")
    with pytest.raises(EngineError, match="/nowhere/podman"):
        find_engine({**variables, "DOCKER_CONTEXT": "default"})
    with pytest.raises(EngineError, match="docker has no context 'none'"):
        find_engine({**variables, "DOCKER_CONTEXT": "none"})


def test_an_engine_that_says_nothing_is_waited_for_with_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shipline.engines.docker._ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EngineError, match="timed out"):
            find_engine({"DOCKER_HOST": host})


def test_tls_trusts_what_the_context_or_the_variables_say(engine: Engine, tmp_path: Path) -> None:
    public, key = certificate(tmp_path, "engine")
    other, _ = certificate(tmp_path, "other")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(public))
    tls.load_cert_chain(public, key)
    tls.verify_mode = ssl.CERT_REQUIRED  # of the client
    with serving(engine, tls) as running:
        place = context(tmp_path, "secure", tcp(running))
        place.mkdir(parents=True)
        for name, file in (("ca.pem", public), ("cert.pem", public), ("key.pem", key)):
            shutil.copy(file, place / name)
        find_engine({"DOCKER_CONFIG": str(tmp_path)}, "secure").load(image(b"x"))
        wanted = {"DOCKER_HOST": tcp(running), "DOCKER_CERT_PATH": str(place)}
        find_engine({**wanted, "DOCKER_TLS_VERIFY": "1"}).load(image(b"y"))
        shutil.copy(other, place / "ca.pem")
        find_engine({**wanted, "DOCKER_TLS": "1"}).load(image(b"z"))  # trusts any server
        with pytest.raises(EngineError, match="certificate verify failed"):
            find_engine({**wanted, "DOCKER_TLS_VERIFY": "1"})
        with pytest.raises(EngineError, match=r"cannot reach|no engine answers"):
            find_engine({"DOCKER_HOST": tcp(running)})
    assert engine.loaded == [b"x", b"y", b"z"]


def test_an_engine_on_another_machine_is_reached_by_ssh(
    server: Served, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh is a script that notes its words, and connects as `docker system dial-stdio` does."""
    script = tmp_path / "ssh"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/words\n'
        f"exec python3 -c '\nimport socket, sys, threading, os, shutil\n"
        f's = socket.create_connection(("127.0.0.1", {server.port}))\n'
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "    s.shutdown(1)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n'\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    find_engine({"DOCKER_HOST": "ssh://me@there:2222"}).load(image(b"x" * 100_000))
    assert engine.loaded == [b"x" * 100_000]
    words = (tmp_path / "words").read_text().splitlines()[0]
    assert words.endswith("-l me -p 2222 -- there docker system dial-stdio")
    for url in ("ssh://-oProxyCommand=x", "ssh://me:secret@there", "ssh://there/path"):
        with pytest.raises(EngineError, match="is not ssh://USER@HOST:PORT"):
            find_engine({"DOCKER_HOST": url})


def test_a_socket_of_someone_else_names_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(EngineError, match="Permission denied") as caught:
        find_engine({"DOCKER_HOST": f"unix://{tmp_path}/socket"})
    assert "usermod -aG docker" in (caught.value.hint or "")


def test_an_address_that_is_none_is_named() -> None:
    for url in ("npipe:////./pipe/docker", "tcp://there:port", "fd://", "there:2375"):
        with pytest.raises(EngineError, match="cannot be used here"):
            find_engine({"DOCKER_HOST": url})


def test_podman_without_service_is_for_root_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "podman"
    program.touch(mode=0o755)
    monkeypatch.setattr(finding, "_places", lambda environment: iter(()))
    for inside in (False, True):
        monkeypatch.setattr(sandbox, "in_user_namespace", lambda inside=inside: inside)
        if not inside:
            assert not find_engine({"PATH": str(tmp_path)}).several
            continue
        with pytest.raises(EngineError, match="its service does not run"):
            find_engine({"PATH": str(tmp_path)})
    with pytest.raises(EngineError, match="no container engine was found"):
        find_engine({"PATH": "/nowhere"})
