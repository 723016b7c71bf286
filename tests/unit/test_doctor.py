"""Diagnoses, and the clock of a registry."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from serving import serving
from shipline.doctor import (
    Condition,
    Diagnosis,
    Examination,
    Remark,
    diagnose,
    examine_registry,
    registries,
)
from shipline.errors import SandboxError
from shipline.registry import Client, NoKeychain


def test_a_failure_has_the_hint_and_the_status_of_its_error() -> None:
    def fail() -> str:
        error = SandboxError("no runtime", hint="install one")
        error.add_note("crun: not on the PATH")
        raise error

    expected = Diagnosis(
        "here", "runtime", Condition.FAILED, "no runtime\ncrun: not on the PATH", "install one", 10
    )
    assert diagnose(Examination("here", "runtime", fail)) == expected


def test_a_remark_is_no_failure_and_nothing_to_say_is_nothing() -> None:
    remark = diagnose(Examination("here", "network", lambda: Remark("shared", "install passt")))
    assert remark == Diagnosis("here", "network", Condition.REMARK, "shared", "install passt")
    assert diagnose(Examination("here", "proxies", lambda: "")) is None


@pytest.mark.parametrize("late_s, said", [(0, ""), (600, "ahead of"), (-600, "behind")])
def test_a_clock_that_differs_from_that_of_a_registry_is_a_remark(
    late_s: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda request: (200, {}, b"{}")) as server, Client() as client:
        monkeypatch.setattr(registries, "time", SimpleNamespace(time=lambda: time.time() + late_s))
        (login,) = map(diagnose, examine_registry(client, NoKeychain(), server.host))
    assert login is not None
    assert said in login.detail
    assert login.condition is (Condition.REMARK if said else Condition.OK)
