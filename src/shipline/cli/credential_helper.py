"""`docker-credential-shipline`: the encrypted vault, for docker and every other client.

The protocol is that of docker-credential-helpers: a verb, one thing on standard input, the answer
or the reason of a failure on standard output.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from shipline.errors import ShiplineError

_LIMIT = 1 << 20  # bytes of standard input
_NOTHING = "credentials not found in native keychain"
_USAGE = "Usage: docker-credential-shipline <store|get|erase|list|version>"


def main() -> int:
    """Do what the verb says; 0, or 1 with the reason on standard output."""
    try:
        status, answer = _answer(sys.argv[1:])
    except ShiplineError as error:
        status, answer = 1, f"{error.message}: {error.hint}" if error.hint else error.message
    except (ValueError, KeyError, TypeError):
        status, answer = 1, "standard input is not what the protocol says"
    if answer:
        print(answer)
    return status


def _answer(arguments: list[str]) -> tuple[int, str]:
    if arguments == ["version"]:
        from shipline import __version__

        return 0, f"docker-credential-shipline (shipline) {__version__}"
    if len(arguments) != 1 or arguments[0] not in ("get", "store", "erase", "list"):
        return 1, _USAGE
    from shipline.registry import forget_in_vault, vault_file, vault_from

    place = vault_file(os.environ)
    if arguments == ["list"]:
        return 0, _list(place)
    given = sys.stdin.buffer.read(_LIMIT).decode().strip()
    if arguments == ["erase"]:
        return (0, "") if forget_in_vault(place, given) else (1, _NOTHING)
    if arguments == ["store"]:
        _store(place, given)
        return 0, ""
    found = vault_from(os.environ, place).get(given)
    if found is None:
        return 1, _NOTHING
    user, secret = found.username, found.password
    if found.identity_token:
        user, secret = "<token>", found.identity_token
    return 0, json.dumps({"ServerURL": given, "Username": user, "Secret": secret})


def _store(place: Path, given: str) -> None:
    from shipline.registry import Credentials, vault_from

    entry = json.loads(given)
    user, secret = str(entry["Username"]), str(entry["Secret"])
    credentials = Credentials(user, secret)
    if user == "<token>":
        credentials = Credentials(identity_token=secret)
    vault_from(os.environ, place).put(str(entry["ServerURL"]), credentials)


def _list(place: Path) -> str:
    from shipline.registry import vault_from

    return json.dumps(vault_from(os.environ, place).users())


if __name__ == "__main__":
    sys.exit(main())
