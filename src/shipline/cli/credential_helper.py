"""`docker-credential-shipline`: the encrypted store, for docker and every other client.

The protocol of docker-credential-helpers: a verb as argument, input on standard input, output or
the error on standard output.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from shipline.errors import ShiplineError

_LIMIT = 1 << 20  # bytes of standard input
_NOT_FOUND = "credentials not found in native keychain"
_USAGE = "Usage: docker-credential-shipline <store|get|erase|list|version>"


def main() -> int:
    """Run the verb; 0, or 1 with the reason on standard output."""
    try:
        status, output = _run(sys.argv[1:])
    except ShiplineError as error:
        status, output = 1, f"{error.message}: {error.hint}" if error.hint else error.message
    except (ValueError, KeyError, TypeError):
        status, output = 1, "malformed standard input"
    if output:
        print(output)
    return status


def _run(arguments: list[str]) -> tuple[int, str]:
    if arguments == ["version"]:
        from shipline import __version__

        return 0, f"docker-credential-shipline (shipline) {__version__}"
    if len(arguments) != 1 or arguments[0] not in ("get", "store", "erase", "list"):
        return 1, _USAGE
    from shipline.registry import credential_store, credential_store_path, erase_credentials

    path = credential_store_path(os.environ)
    if arguments == ["list"]:
        return 0, _list(path)
    text = sys.stdin.buffer.read(_LIMIT).decode().strip()
    if arguments == ["erase"]:
        return (0, "") if erase_credentials(path, text) else (1, _NOT_FOUND)
    if arguments == ["store"]:
        _store(path, text)
        return 0, ""
    credentials = credential_store(os.environ, path).get(text)
    if credentials is None:
        return 1, _NOT_FOUND
    user, secret = credentials.username, credentials.password
    if credentials.identity_token:
        user, secret = "<token>", credentials.identity_token
    return 0, json.dumps({"ServerURL": text, "Username": user, "Secret": secret})


def _store(path: Path, text: str) -> None:
    from shipline.registry import Credentials, credential_store

    entry = json.loads(text)
    user, secret = str(entry["Username"]), str(entry["Secret"])
    credentials = Credentials(user, secret)
    if user == "<token>":
        credentials = Credentials(identity_token=secret)
    credential_store(os.environ, path).put(str(entry["ServerURL"]), credentials)


def _list(path: Path) -> str:
    from shipline.registry import credential_store

    return json.dumps(credential_store(os.environ, path).users())


if __name__ == "__main__":
    sys.exit(main())
