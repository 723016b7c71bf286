"""Refresh tokens: opaque, kept as hashes, good for one subject at one service."""

from __future__ import annotations

import json
from dataclasses import dataclass

from shipline.metadata import walk
from shipline.server.access.accounts import User
from shipline.server.access.directory import Changes, Directory
from shipline.server.access.secret import digest_secret, generate_secret

_EACH = 50  # refresh tokens of one account; the oldest goes first


@dataclass(frozen=True, slots=True)
class Refresh:
    """What is kept of one refresh token; times in seconds of Unix time."""

    subject: str
    digest: str
    audience: str
    client: str
    created: float
    expires: float
    stamp: str = ""  # of the account's secrets when it was issued


def issue_refresh(
    directory: Directory, account: User, audience: str, client: str, life_s: float
) -> str:
    """A new refresh token, which cannot be read again; good while the account, as it was when its
    password was right, has that password.
    """
    subject = account.name
    token = f"{subject}.{generate_secret()}"
    now = directory.clock()
    fields = {
        "audience": audience,
        "client": client[:200],
        "created": now,
        "expires": now + life_s,
        "stamp": account.stamp,
    }
    with directory.change(seen=False) as changes:
        kept = sorted(refresh_tokens(directory, subject), key=lambda one: one.created)
        ended = [one for one in kept if one.expires <= now]
        alive = [one for one in kept if one.expires > now]
        for one in [*ended, *alive[: max(0, len(alive) - _EACH + 1)]]:
            changes[("refresh", subject, one.digest)] = None
        changes[("refresh", subject, digest_secret(token))] = json.dumps(fields).encode()
    return token


def subject_of(directory: Directory, token: str, audience: str) -> str | None:
    """Whose refresh token it is, None for one that is unknown, ended or for another service."""
    subject = token.rpartition(".")[0]
    if "\0" in subject:
        return None
    record = directory.records.get(("refresh", subject, digest_secret(token)))
    if record is None:
        return None
    fields, account = json.loads(record), directory.view().account(subject)
    good = (
        fields["audience"] == audience
        and directory.clock() < fields["expires"]
        and account is not None
        and fields.get("stamp") == account.stamp
    )
    return subject if good else None


def refresh_tokens(directory: Directory, subject: str = "") -> list[Refresh]:
    """What is kept for one account, or for all."""
    prefix = ("refresh", subject) if subject else ("refresh",)
    return [
        Refresh(subject or key[0], key[-1], **json.loads(value))
        for key, value in walk(directory.records, prefix)
    ]


def revoke_refresh(directory: Directory, changes: Changes, subject: str) -> int:
    """Take all refresh tokens of an account away, as part of a change; returns their number."""
    found = refresh_tokens(directory, subject)
    for one in found:
        changes[("refresh", subject, one.digest)] = None
    return len(found)
