"""A node with accounts as people run it: the command line, in a process of its own."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from commands import Forked
from shipline.cli import main
from shipline.server.access import (
    AccountStore,
    Administration,
    Permission,
    RobotAccess,
    RobotOptions,
)
from spec_client import OCTETS, Answer, Target, sha256

INDEX = "application/vnd.oci.image.index.v1+json"
ADMIN = "admin"
_START_S = 120.0


def basic(name: str, secret: str) -> dict[str, str]:
    text = base64.b64encode(f"{name}:{secret}".encode()).decode()
    return {"Authorization": f"Basic {text}"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@dataclass
class Guarded:
    """A node that answers at `url`; `output` is what it has printed."""

    url: str
    data: Path
    log: Path
    password: str
    process: Forked
    secrets: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.url.partition("//")[2]

    @property
    def admin(self) -> dict[str, str]:
        return basic(ADMIN, self.password)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        return Target(self.url, "x").call(method, path, body, headers)

    def api(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Harbor's API, as the administrator where nothing else is said."""
        sent = None if body is None else json.dumps(body).encode()
        every = {"Content-Type": "application/json", **(self.admin if headers is None else headers)}
        return self.call(method, f"/api/v2.0{path}", sent, every)

    @contextmanager
    def accounts(self) -> Iterator[Administration]:
        """The accounts as the command line changes them, beside the running node."""
        directory = AccountStore(self.data)
        try:
            yield Administration(directory, actor="test")
        finally:
            directory.close()

    def robot(
        self, name: str, project: str, *actions: str, **limits: tuple[str, ...]
    ) -> dict[str, str]:
        """A new robot's Basic credentials; `limits` are fields of Permission, or networks."""
        return basic(*self.robot_login(name, project, *actions, **limits))

    def robot_login(
        self, name: str, project: str, *actions: str, **limits: tuple[str, ...]
    ) -> tuple[str, str]:
        """A new robot's login name and secret."""
        access = tuple(RobotAccess("repository", action) for action in actions)
        networks = limits.pop("networks", ())
        permission = Permission(project or "*", access, **limits)  # type: ignore[arg-type]
        with self.accounts() as accounts:
            made, secret = accounts.add_robot(
                RobotOptions(name, project, (permission,), networks=networks)
            )
        self.secrets.append(secret)
        return made.login, secret

    def user(self, name: str, **roles: Any) -> dict[str, str]:
        """A new user's Basic credentials; `roles` by project."""
        password = f"pass of {name} 1"
        with self.accounts() as accounts:
            accounts.add_user(name, password)
            for project, role in roles.items():
                accounts.set_member(project, name, role)
        self.secrets.append(password)
        return basic(name, password)

    def project(self, name: str, *, public: bool = False) -> None:
        with self.accounts() as accounts:
            accounts.add_project(name, public=public)

    def token(self, credentials: Mapping[str, str], *scopes: str) -> str:
        query = "".join(f"&scope={quote(scope)}" for scope in scopes)
        found = self.call("GET", f"/service/token?service=shipline{query}", None, credentials)
        assert found.status == 200, found.body
        token: str = found.json["token"]
        self.secrets.append(token)
        return token

    def push(self, repository: str, tag: str, headers: Mapping[str, str], note: str = "") -> Answer:
        """An index that names nothing, different for each `note`."""
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [],
            "annotations": {"note": note},
        }
        every = {"Content-Type": INDEX, **headers}
        path = f"/v2/{repository}/manifests/{tag}"
        return self.call("PUT", path, json.dumps(index).encode(), every)

    def blob(self, repository: str, content: bytes, headers: Mapping[str, str]) -> Answer:
        path = f"/v2/{repository}/blobs/uploads/?digest={sha256(content)}"
        return self.call("POST", path, content, {**OCTETS, **headers})


@contextmanager
def guarded(data: Path, *options: str, listen: str = "127.0.0.1:0") -> Iterator[Guarded]:
    """Serve `data` with accounts until the block ends."""
    log = data.with_name(data.name + ".log")
    log.write_bytes(b"")
    words = ["registry", "serve", "--listen", listen, "--data", str(data), *options]
    process = Forked(main, words, stdout=log, stderr=log)
    try:
        text = _started(log, process)
        found = re.search(r"password: (\S+)", text)
        url = re.findall(r"^serving .* on (\S+)$", text, re.MULTILINE)[0]
        password = found[1] if found else ""
        yield Guarded(url, data, log, password, process, [password] if password else [])
    finally:
        process.kill()
        process.wait()


def _started(log: Path, process: Forked) -> str:
    """What the node printed until it serves."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        text = log.read_text()
        if re.search(r"^serving .*\n", text, re.MULTILINE):
            return text
        time.sleep(0.02)
    raise AssertionError(f"the node did not start:\n{log.read_text()}")
