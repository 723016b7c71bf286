"""Programs that keep secrets: `docker-credential-<name> get` (docker-credential-helpers)."""

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
    import subprocess

    if not _NAME.match(name) or name.startswith((".", "-")):
        raise _failed(name, server, "that is not the name of a credential helper")
    program = f"docker-credential-{name}"
    try:
        process = subprocess.Popen(
            [program, "get"],
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
                output, _ = process.communicate(server.encode(), timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise _failed(name, server, f"{program} did not answer") from None
        finally:
            process.kill()
    text = output[:_LIMIT].decode("utf-8", "replace").strip()
    if process.returncode:
        if any(text.startswith(nothing) for nothing in _NOTHING):
            return None
        raise _failed(name, server, f"{program}: {clean(text) or 'failed without a word'}")
    return _read(name, server, text)


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
