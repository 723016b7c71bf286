"""Credentials, keychains that supply them, and credential helpers (docker-credential-helpers)."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

from shipline.errors import AuthError, ShiplineError
from shipline.registry.errors import clean
from shipline.tasks import check, on_cancel
from shipline.values import Redacted

if TYPE_CHECKING:
    import subprocess

HUB_KEY = "https://index.docker.io/v1/"
_HUB = {"docker.io", "registry-1.docker.io", "index.docker.io"}


class Credentials(Redacted, frozen=True):
    """Username and password, an identity token (OAuth2 refresh token), or a bearer token."""

    hidden: ClassVar = frozenset({"password", "identity_token", "registry_token"})

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617), in UTF-8."""
        secret = self.password or self.identity_token
        return "Basic " + base64.b64encode(f"{self.username}:{secret}".encode()).decode()


class Keychain(Protocol):
    """A source of credentials."""

    def credentials(self, host: str, repository: str) -> Credentials | None:
        """The credentials for `repository` at `host`; None for anonymous. Raises AuthError."""


class NoKeychain:
    """Anonymous everywhere."""

    def credentials(self, host: str, repository: str) -> Credentials | None:
        return None


class StaticKeychain:
    """Fixed credentials per host."""

    def __init__(self, known: Mapping[str, Credentials]) -> None:
        self._known = {normal_host(host): credentials for host, credentials in known.items()}

    def credentials(self, host: str, repository: str) -> Credentials | None:
        return self._known.get(normal_host(host))


def normal_host(key: str) -> str:
    """The host named by a key of a configuration file; Docker Hub's names are one.

    Hosts are compared whole: `registry.example.com.evil` is another host.
    """
    host = key.strip().lower().partition("://")[2] or key.strip().lower()
    host = host.partition("/")[0]
    return "docker.io" if host in _HUB else host


_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
_TIMEOUT_S = 60.0  # the user may have to unlock a keyring
_POLL_S = 0.1
_LIMIT = 1 << 20  # bytes of output
_NOT_FOUND = (
    "credentials not found in native keychain",
    "no credentials server URL",
    "no credentials username",
)
_PACKAGES = {
    "ecr-login": "Debian: amazon-ecr-credential-helper",
    "gcloud": "it comes with the Google Cloud CLI",
    "gcr": "github.com/GoogleCloudPlatform/docker-credential-gcr",
    "acr-env": "github.com/chrismellard/docker-credential-acr-env",
    "acr-login": "github.com/Azure/acr-docker-credential-helper",
    "pass": "Debian: golang-docker-credential-helpers",
    "secretservice": "Debian: golang-docker-credential-helpers",
    "osxkeychain": "it comes with Docker Desktop for macOS",
    "wincred": "it comes with Docker Desktop for Windows",
    "desktop": "it comes with Docker Desktop",
}  # where the usual helpers are
_IDENTITY = "<token>"  # the username that marks the secret as an identity token


def get_from_helper(
    name: str, server: str, environment: Mapping[str, str] | None = None
) -> Credentials | None:
    """The credentials stored for `server`, None for none. Raises AuthError if the helper fails."""
    status, text = _run(name, "get", server, server, environment)
    if not status:
        return _read(name, server, text)
    if any(text.startswith(phrase) for phrase in _NOT_FOUND):
        return None
    raise _failed(name, server, _reason(text))


def store_in_helper(
    name: str, server: str, credentials: Credentials, environment: Mapping[str, str] | None = None
) -> None:
    """Store the credentials of `server`. Raises AuthError if the helper fails."""
    identity = credentials.identity_token
    entry = {
        "ServerURL": server,
        "Username": _IDENTITY if identity else credentials.username,
        "Secret": identity or credentials.password,
    }
    status, text = _run(name, "store", server, json.dumps(entry), environment)
    if status:
        raise _failed(name, server, _reason(text))


def erase_from_helper(name: str, server: str, environment: Mapping[str, str] | None = None) -> None:
    """Erase the credentials of `server`, if any. Raises AuthError if the helper fails."""
    status, text = _run(name, "erase", server, server, environment)
    if status and not any(text.startswith(phrase) for phrase in _NOT_FOUND):
        raise _failed(name, server, _reason(text))


def _run(
    name: str, verb: str, server: str, text: str, environment: Mapping[str, str] | None
) -> tuple[int, str]:
    """Exit status and output of the helper; secrets go to its standard input only."""
    import subprocess

    if not _NAME.match(name) or name.startswith((".", "-")):
        raise _failed(name, server, "that is not a valid helper name")
    program = f"docker-credential-{name}"
    try:
        with os.fdopen(os.memfd_create(program), "w+b", buffering=0) as given:
            given.write(text.encode())
            given.seek(0)
            process = subprocess.Popen(
                [program, verb],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(environment) if environment else None,
            )
    except FileNotFoundError:
        raise _failed(
            name,
            server,
            f"{program} is not installed",
            f"install it ({_PACKAGES[name]})" if name in _PACKAGES else "install it",
        ) from None
    except OSError as error:
        raise _failed(name, server, f"{program} cannot be run: {error.strerror}") from None
    with process:
        try:
            with on_cancel(process.kill):
                output = _output(process)
                status = process.wait(_TIMEOUT_S)
        except (subprocess.TimeoutExpired, TimeoutError):
            raise _failed(name, server, f"{program} timed out") from None
        except ValueError:
            raise _malformed(name, server) from None
        finally:
            process.kill()
    return status, output.decode("utf-8", "replace").strip()


def _output(process: subprocess.Popen[bytes]) -> bytes:
    """What the helper prints until it ends; what it leaves running may keep its output open. Raises
    TimeoutError, and ValueError for too much.
    """
    import selectors

    assert process.stdout is not None
    output, deadline = b"", time.monotonic() + _TIMEOUT_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(output) <= _LIMIT:
            check()
            ended = process.poll() is not None
            if selector.select(0 if ended else _POLL_S):
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    return output
                output += data
            elif ended:
                return output
            if time.monotonic() > deadline:
                raise TimeoutError
    raise ValueError("too much output")


def _reason(text: str) -> str:
    """Why a helper failed, as it says; without what may hold a secret."""
    if "{" in text:
        return "it failed, and its output is not shown, which may hold a secret"
    return clean(text) or "it failed without a message"


def _read(name: str, server: str, text: str) -> Credentials | None:
    try:
        response = json.loads(text)
        user, secret = response["Username"], response["Secret"]
    except (ValueError, LookupError, TypeError):
        raise _malformed(name, server) from None
    if not isinstance(user, str) or not isinstance(secret, str) or not secret:
        return None
    if user == _IDENTITY:
        return Credentials(user, identity_token=secret)
    return Credentials(user, secret)


def _malformed(name: str, server: str) -> ShiplineError:
    return _failed(name, server, "its output is malformed")


def _failed(name: str, server: str, reason: str, cure: str = "repair it") -> ShiplineError:
    return AuthError(
        f"the credential helper {name!r} failed for {server}: {reason}",
        code="credential-helper",
        host=server,
        hint=f"{cure}, or remove it from credsStore and credHelpers in config.json",
    )
