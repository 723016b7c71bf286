"""The section `environments`: the chain of environments, and what each needs."""

from __future__ import annotations

import pytest

from shipline.config import Config, loads
from shipline.config.document import InvalidConfig

BASE = "gitops: {repository: ../deploy.git, updates: [{kustomization: envs}]}"


def environments(**keys: str) -> Config:
    lines = [f"  {name}: {{{BASE}, {text}}}" for name, text in keys.items()]
    return loads("\n".join(["environments:", *lines]).encode(), "shipline.yaml", {})


def test_all_keys_are_read() -> None:
    found = environments(
        dev="promotion: auto",
        production="after: dev, soak: 30m, promotion: manual,"
        " approvals: {required: 2, by: ['*@example.org'], allow-author: true, signers: signers},"
        " gates: {required: [coverage], max-age: 7d},"
        " windows: [{days: [mon-fri], from: '09:00', to: '16:00', zone: Europe/Berlin}],"
        " freezes: [{from: 2026-12-20, to: 2027-01-02, reason: holidays}]",
    ).environments
    assert found and found["production"].after == "dev"
    assert str(found["production"].windows[0]) == "mon-fri 09:00-16:00 Europe/Berlin"
    assert str(found["production"].freezes[0].to) == "2027-01-02"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"a": "after: b"}, "environments.a.after: there is no environment 'b'"),
        ({"a": "after: a"}, "a comes after itself"),
        ({"a": "after: b", "b": "after: c", "c": "after: b"}, "comes after itself"),
        ({"a": "soak: 5m"}, "environments.a.soak: needs `after`"),
        ({"a": "approvals: {required: 0}"}, "approvals.required: at least one"),
        ({"a": "approvals: {required: 2, by: [a@x, A@x]}"}, "names 1 people, and 2 must"),
        ({"a": "windows: [{days: [foo]}]"}, "'foo' is not a day"),
        ({"a": "windows: [{zone: Mars/Base}]"}, "'Mars/Base' is not a time zone"),
        ({"a": "freezes: [{from: 2026-12-20, to: 2026-12-19}]"}, "ends before it begins"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(keys: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        environments(**keys)
    assert message in str(refused.value)
