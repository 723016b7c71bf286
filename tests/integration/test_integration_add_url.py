"""ADD of URLs through the whole program: files, times, owners, and what is asked of the server."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builds import Shipline, context, image_times
from shipline.oci import Digest

pytestmark = pytest.mark.root

DATE, TIME = "Thu, 02 Jan 2020 03:04:05 GMT", 1577934245


@dataclass
class Server:
    """A web server; `asked` are the requests: path, and status of the response."""

    url: str = ""
    modified: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(modified=DATE, files={"/a.txt": b"hello", "/odd%5B1%5D%2A.txt": b"odd"})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self._reply(302, b"", ("Location", "/a.txt"))
            elif self.path not in found.files:
                self._reply(404, b"")
            else:
                content = found.files[self.path]
                etag = f'"{Digest.of(content).hex[:8]}"'
                same = self.headers.get("If-None-Match") == etag
                headers = ("ETag", etag), ("Last-Modified", found.modified)
                self._reply(304 if same else 200, b"" if same else content, *headers)

        def _reply(self, status: int, content: bytes, *headers: tuple[str, str]) -> None:
            found.asked.append((self.path, status))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        found.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture
def shipline(tmp_path: Path) -> Shipline:
    return Shipline(tmp_path / "home")


def built(shipline: Shipline, place: Path, dockerfile: str) -> dict[str, tuple[object, ...]]:
    """The files of the image: mode, owner, time and content by name."""
    out = place.with_name("out.tar")
    source = context(place, dockerfile)
    shipline.build("-o", f"type=tar,dest={out}", source).ok()
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(out) as tar:
        for one in tar:
            if file := tar.extractfile(one):
                found[one.name] = (one.mode, one.uid, one.gid, one.mtime, file.read())
    return found


def test_files_are_those_of_buildkit(server: Server, shipline: Shipline, tmp_path: Path) -> None:
    found = built(
        shipline,
        tmp_path / "context",
        f"FROM scratch\nADD {server.url}/a.txt /d/\n"
        f"ADD --chmod=644 --chown=1:2 {server.url}/moved /renamed\n"
        f"ADD {server.url}/odd%5B1%5D%2A.txt {server.url}/a.txt /both/\n",
    )
    assert found == {
        "d/a.txt": (0o600, 0, 0, TIME, b"hello"),
        "renamed": (0o644, 1, 2, TIME, b"hello"),
        "both/a.txt": (0o600, 0, 0, TIME, b"hello"),
        "both/odd[1]*.txt": (0o600, 0, 0, TIME, b"odd"),
    }


def test_a_changed_file_is_noticed(server: Server, shipline: Shipline, tmp_path: Path) -> None:
    dockerfile = f"FROM scratch\nADD {server.url}/a.txt /\n"
    place = tmp_path / "context"
    built(shipline, place, dockerfile)
    assert shipline.build("-o", "type=cacheonly", place).ok().err.count("CACHED") == 2
    assert server.asked == [("/a.txt", 200), ("/a.txt", 304)]
    server.files["/a.txt"] = b"changed"
    assert built(shipline, place, dockerfile)["a.txt"][-1] == b"changed"


def test_archives_are_unpacked_when_that_is_asked_for(
    server: Server, shipline: Shipline, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("inside")
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "f", "f")
    server.files["/t.tar.gz"] = (tmp_path / "t.tar.gz").read_bytes()
    dockerfile = f"FROM scratch\nADD {server.url}/t.tar.gz /\n"
    dockerfile += f"ADD --unpack=true {server.url}/t.tar.gz /u/\n"
    assert sorted(built(shipline, tmp_path / "context", dockerfile)) == ["t.tar.gz", "u/f"]


def test_a_checksum_is_held_and_needs_no_request(
    server: Server, shipline: Shipline, tmp_path: Path
) -> None:
    digest, place = Digest.of(b"hello"), tmp_path / "context"
    dockerfile = f"FROM scratch\nADD --checksum={digest} {server.url}/a.txt /\n"
    built(shipline, place, dockerfile)
    built(shipline, place, dockerfile)
    assert server.asked == [("/a.txt", 200)]
    server.files["/a.txt"] = b"other"
    said = Shipline(tmp_path / "other").build(place).failed(4)
    assert f"not {digest}" in said and "Dockerfile:2" in said


def test_what_is_not_there_is_an_error_with_its_line(
    server: Server, shipline: Shipline, tmp_path: Path
) -> None:
    url = server.url.replace("//", "//me:secret@")
    good = context(tmp_path / "good", f"FROM scratch\nADD {url}/a.txt /\n")
    assert "secret" not in shipline.build("-o", "type=cacheonly", good).ok().err
    place = context(tmp_path / "context", f"FROM scratch\nADD {url}/missing /\n")
    said = shipline.build(place).failed(6)
    assert "404" in said and "Dockerfile:2" in said and "check the URL" in said


def test_the_time_of_a_stage_is_that_of_its_url(
    server: Server, shipline: Shipline, tmp_path: Path
) -> None:
    dockerfile = (
        f"FROM scratch AS source\nARG FILE=a.txt\nADD {server.url}/$FILE /\n"
        "FROM scratch\nCOPY new /\n"
    )
    place = context(tmp_path / "context", dockerfile, new="new")
    out = tmp_path / "out.tar"
    words = ("--build-arg", "SOURCE_DATE_EPOCH=source", place)
    shipline.build("-o", f"type=tar,dest={out}", *words).ok()
    shipline.build("-o", f"type=docker,rewrite-timestamp=true,dest={out}", *words).ok()
    assert image_times(out) == {TIME}
    server.files.clear()
    assert "404" in Shipline(tmp_path / "other").build(*words).failed(6)


def test_the_time_of_a_stage_is_that_of_the_newest_file_in_its_archive(
    server: Server, shipline: Shipline, tmp_path: Path
) -> None:
    server.modified = ""
    (tmp_path / "f").write_bytes(b"f")
    os.utime(tmp_path / "f", (TIME, TIME))
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "f", "f")
    server.files["/t.tar.gz"] = (tmp_path / "t.tar.gz").read_bytes()
    source = f"FROM scratch AS source\nADD {server.url}/%s /\n"
    last, out = "FROM scratch\nCOPY new /\n", tmp_path / "out.tar"
    place = context(tmp_path / "context", source % "t.tar.gz" + last, new="new")
    words = ("--build-arg", "SOURCE_DATE_EPOCH=source", place)
    shipline.build("-o", f"type=docker,rewrite-timestamp=true,dest={out}", *words).ok()
    assert image_times(out) == {TIME}
    for stage, said in (
        (source % "a.txt", "the file of the stage has no timestamp"),
        ("FROM scratch AS source\nCOPY new /\n", "does not meet source-only requirements"),
    ):
        (place / "Dockerfile").write_text(stage + last)
        assert said in " ".join(shipline.build(*words).failed(4).replace("│", " ").split())
