"""Programs that keep secrets: `docker-credential-<name> get|store|erase`.

The protocol is that of docker-credential-helpers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from shipline.errors import AuthError, ShiplineError
from shipline.registry.credentials import Credentials
from shipline.registry.failures import clean
from shipline.tasks import on_cancel

_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
_TIMEOUT_S = 60.0  # a person may have to unlock something
_LIMIT = 1 << 20  # bytes of an answer
_NOTHING = (
    "credentials not found in native keychain",
    "no credentials server URL",
    "no credentials username",
)
_IDENTITY = "<token>"  # the user name that says that the secret is an identity token


def ask_helper(
    name: str, server: str, environment: Mapping[str, str] | None = None
) -> Credentials | None:
    """What the helper knows about `server`, None for nothing. Raises AuthError if it fails."""
    status, text = _run(name, "get", server, server, environment)
    if not status:
        return _read(name, server, text)
    if any(text.startswith(nothing) for nothing in _NOTHING):
        return None
    raise _failed(name, server, clean(text) or "it failed without a word")


def tell_helper(
    name: str,
    server: str,
    credentials: Credentials,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Let the helper keep the credentials of `server`. Raises AuthError if it does not."""
    identity = credentials.identity_token
    entry = {
        "ServerURL": server,
        "Username": _IDENTITY if identity else credentials.username,
        "Secret": identity or credentials.password,
    }
    status, text = _run(name, "store", server, json.dumps(entry), environment)
    if status:
        raise _failed(name, server, clean(text) or "it failed without a word")


def clear_helper(name: str, server: str, environment: Mapping[str, str] | None = None) -> None:
    """Let the helper forget `server`; fine where it knew nothing. Raises AuthError if it fails."""
    status, text = _run(name, "erase", server, server, environment)
    if status and not any(text.startswith(nothing) for nothing in _NOTHING):
        raise _failed(name, server, clean(text) or "it failed without a word")


def _run(
    name: str, verb: str, server: str, given: str, environment: Mapping[str, str] | None
) -> tuple[int, str]:
    """The status of the helper and what it said; a secret goes in on standard input only."""
    import subprocess

    if not _NAME.match(name) or name.startswith((".", "-")):
        raise _failed(name, server, "that is not the name of a credential helper")
    program = f"docker-credential-{name}"
    try:
        process = subprocess.Popen(
            [program, verb],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment) if environment else None,
        )
    except OSError as error:
        raise _failed(name, server, f"{program} cannot be run: {error.strerror}") from None
    with process:
        try:
            with on_cancel(process.kill):
                output, _ = process.communicate(given.encode(), timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise _failed(name, server, f"{program} did not answer") from None
        finally:
            process.kill()
    return process.returncode, output[:_LIMIT].decode("utf-8", "replace").strip()


def _read(name: str, server: str, text: str) -> Credentials | None:
    try:
        answer = json.loads(text)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, LookupError, TypeError):
        raise _failed(name, server, "its answer cannot be read") from None
    if not isinstance(user, str) or not isinstance(secret, str) or not secret:
        return None
    if user == _IDENTITY:
        return Credentials(user, identity_token=secret)
    return Credentials(user, secret)


def _failed(name: str, server: str, reason: str) -> ShiplineError:
    return AuthError(
        f"the credential helper {name!r} has no answer about {server}: {reason}",
        host=server,
        hint="install or repair it, or take it out of credsStore and credHelpers in config.json",
    )
