"""Git repositories over HTTP, as `git http-backend` serves them, and plain files beside them."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT_TIME_S = 1_600_000_000
FILE_TIME_S = 1_500_000_000


@dataclass
class GitServer:
    """A server of the repositories and files below `root`; `asked` are the requests so far."""

    root: Path
    address: str = ""
    scheme: str = "http"
    login: str = ""  # user:password, which every request then needs
    asked: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)  # that were sent
    plain: dict[str, Path] = field(default_factory=dict)  # served as files, without a program

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def repository(self, name: str) -> GitRepository:
        """A new empty repository, served as `name`.git."""
        return GitRepository.create(self.root / f"{name}.git")


@dataclass(frozen=True)
class GitRepository:
    """A repository with a work tree, whose commits are the same every time."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> GitRepository:
        path.mkdir(parents=True)
        found = cls(path)
        found.git("init", "--quiet", "--initial-branch=main")
        return found

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def git(self, *words: str, at_s: int = COMMIT_TIME_S) -> str:
        """What git prints. Raises AssertionError if it fails."""
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.com",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.com",
            "GIT_AUTHOR_DATE": f"{at_s} +0000",
            "GIT_COMMITTER_DATE": f"{at_s} +0000",
            "GIT_ALLOW_PROTOCOL": "file:http",
        }
        done = subprocess.run(
            ["git", *words], cwd=self.path, env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, files: dict[str, str | bytes | None] | None = None, message: str = "c") -> str:
        """Write `files` (None removes one), commit everything, and return the commit."""
        for name, content in (files or {}).items():
            place = self.path / name
            if content is None:
                self.git("rm", "--quiet", name)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--no-all", ".")  # submodules have no directory here
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.head

    def submodule(self, path: str, commit: str, url: str, *more: str) -> str:
        """Commit a submodule at `path`, called as its path, and return the commit."""
        lines = [f'[submodule "{path}"]', f"path = {path}", f"url = {url}", *more]
        with (self.path / ".gitmodules").open("a") as file:
            file.write("\n".join([*lines, ""]))
        self.git("add", ".gitmodules")
        self.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        self.git("commit", "--quiet", "--message", "submodule")
        return self.head


@contextmanager
def git_server(root: Path, tls: tuple[Path, Path] | None = None) -> Iterator[GitServer]:
    """Serve `root` on loopback, over TLS with a certificate and its key."""
    root.mkdir(parents=True, exist_ok=True)
    found = GitServer(root, scheme="https" if tls else "http")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found.asked.append(f"{self.command} {self.path}")
            if login := self.headers.get("Authorization", ""):
                found.logins.append(login)
            wanted = f"Basic {base64.b64encode(found.login.encode()).decode()}"
            if found.login and self.headers.get("Authorization", "").lower() != wanted.lower():
                self._reply(401, b"", ("WWW-Authenticate", 'Basic realm="x"'))
                return
            parts = urlsplit(self.path)
            path = unquote(parts.path).lstrip("/")
            repository, ending, inside = path.partition(".git/")
            if ending and inside and f"{repository}.git" not in found.plain:
                self._backend(parts.path, parts.query)
                return
            name, _, rest = path.partition("/")
            place = found.plain.get(name, root / name) / rest
            if not place.is_file():
                self._reply(404, b"")
                return
            modified = formatdate(FILE_TIME_S, usegmt=True)
            self._reply(200, place.read_bytes(), ("Last-Modified", modified))

        do_POST = do_GET
        do_HEAD = do_GET

        def _backend(self, path: str, query: str) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else self._chunks()
            environ = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "PATH_INFO": unquote(path).replace(".git/", ".git/.git/", 1),
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_ADDR": "127.0.0.1",
            }
            done = subprocess.run(
                ["git", "http-backend"], input=body, env=environ, capture_output=True
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            lines = [line.partition(": ")[::2] for line in head.decode("latin-1").split("\r\n")]
            headers = [(name, value) for name, value in lines if name]
            status = next((int(value[:3]) for name, value in headers if name == "Status"), 200)
            self._reply(status, content, *(one for one in headers if one[0] != "Status"))

        def _chunks(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return b""
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _reply(self, status: int, content: bytes, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        found.address = f"127.0.0.1:{http.server_address[1]}"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            http.socket = context.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield found
        finally:
            http.shutdown()
            thread.join()
