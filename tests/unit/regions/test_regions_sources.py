"""What another node says of its changes, believed only as far as it is that of a node."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from shipline.errors import AuthError, RegistryError, ShiplineError
from shipline.regions.sources import RemoteJournal

ENTRY = {"seq": 1, "op": "tag", "repository": "a", "digest": "sha256:0", "time": 1.0}
PAGE = {"cut": False, "cursor": "1-abc", "last": 1, "now": 1.0, "entries": [ENTRY]}


class Answering:
    """A client whose requests have this answer."""

    def __init__(self, answer: bytes | ShiplineError) -> None:
        self._answer = answer

    def ask(self, host: str, method: str, path: str) -> bytes:
        if isinstance(self._answer, ShiplineError):
            raise self._answer
        return self._answer


def journal(answer: bytes | ShiplineError) -> RemoteJournal:
    client: Any = Answering(answer)
    return RemoteJournal(client, "primary.example", "", "edge")


def test_a_page_has_the_entries_and_where_to_go_on() -> None:
    page = journal(json.dumps(PAGE).encode()).after("", 0, {})
    assert (len(page.entries), page.cursor, page.last) == (1, "1-abc", 1)
    assert page.skew_s == pytest.approx(1 - time.time(), abs=10)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b"{}",
        *(
            json.dumps({**PAGE, name: "VALUE"}).replace('"VALUE"', value).encode()
            for name, value in (
                ("last", "1e999"),
                ("last", "NaN"),
                ("now", "1e999"),
                ("now", "NaN"),
                ("now", "[]"),
                ("cursor", '"c-x"'),
                ("cursor", "7"),
                ("cursor", '"' + "9" * 5000 + '-x"'),
                ("entries", "7"),
                ("entries", json.dumps([{**ENTRY, "time": float("inf")}])),
                ("entries", json.dumps([{**ENTRY, "seq": float("inf")}])),
                ("entries", json.dumps([{**ENTRY, "op": "else"}])),
            )
        ),
    ],
    ids=lambda document: document[:40].decode() + document[-40:].decode(),
)
def test_nonsense_is_one_error_that_names_the_node(document: bytes) -> None:
    with pytest.raises(RegistryError, match="the answer is not that of") as raised:
        journal(document).after("", 0, {})
    assert "--role primary" in raised.value.hint


def test_what_a_refused_account_lacks_is_named() -> None:
    refused = AuthError("robot$a may not access it", host="primary.example", status=403)
    with pytest.raises(AuthError, match="does not let this node's account replicate") as raised:
        journal(refused).after("", 0, {})
    assert "--allow replicate" in raised.value.hint


def test_a_registry_without_a_journal_is_named() -> None:
    missing = RegistryError("page not found", host="primary.example", status=404)
    with pytest.raises(RegistryError, match="keeps no journal"):
        journal(missing).after("", 0, {})
