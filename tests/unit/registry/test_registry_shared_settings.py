"""SHIPLINE_CACHE: which cache a process uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline.errors import ConfigError
from shipline.metadata import open_machine_records
from shipline.registry import Credentials, settings_from
from shipline.registry.quirks import quirks_of
from shipline.registry.shared import shared_cache


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPLINE_HOME", str(tmp_path / "home"))


def test_without_it_nothing_is_shared_and_nothing_is_written(tmp_path: Path) -> None:
    assert settings_from({}).shared is None
    assert not (tmp_path / "home").exists()


def test_clients_of_one_process_use_one_cache(tmp_path: Path) -> None:
    environment = {"SHIPLINE_CACHE": "local"}
    first, second = (settings_from(environment).shared for _ in range(2))
    assert first is not None and first is second
    first.of("reg", None).put(b"x", 60, "a")
    assert first.of("reg", None).get("a") == b"x"
    assert (tmp_path / "home/shared.db").exists()


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + bytes(4000), b""])
def test_damaged_records_are_made_anew(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "shared.db").write_bytes(damage)
    for _ in range(2):
        records = open_machine_records(tmp_path / "shared.db")
        assert records is not None
        records.write({("a",): b"x"})
        assert records.get(("a",)) == b"x"
        records.close()


def test_records_are_for_their_user_alone(tmp_path: Path) -> None:
    (tmp_path / "shared.db").touch(mode=0o644)
    records = open_machine_records(tmp_path / "shared.db")
    assert records is not None
    records.write({("a",): b"x"})
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("shared.db*")} == {0o600}
    records.close()


def test_without_credentials_only_what_anyone_may_read_is_held(tmp_path: Path) -> None:
    shared = shared_cache({"SHIPLINE_CACHE": "local"}, tmp_path)
    assert shared is not None
    assert shared.of("docker.io", None).holds_content
    assert shared.of("reg.corp", Credentials("alice", "x")).holds_content
    assert not shared.of("reg.corp", None).holds_content
    assert not shared.of("docker.io:5000", None).holds_content


def test_a_place_that_cannot_be_used_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert open_machine_records(tmp_path / "file/shared.db") is None


@pytest.mark.parametrize(
    "text",
    [
        *("memcached://me:hunter2@cache", "me:hunter2://@cache"),
        *("redis://me:12#hunter2@cache", "redis://me:12?hunter2@cache"),
        "redis://me:12?strict=a#hunter2@cache",
    ],
)
def test_what_is_no_url_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^SHIPLINE_CACHE: ") as error:
        settings_from({"SHIPLINE_CACHE": text})
    assert "hunter2" not in f"{error.value} {error.value.hint}"


def test_further_registries_that_check_blobs_are_named(tmp_path: Path) -> None:
    url = "redis://127.0.0.1:1/2?strict=reg.example:5000,other&ssl_ca_certs=/ca"
    shared = shared_cache({"SHIPLINE_CACHE": url}, tmp_path)
    assert shared is not None and shared.strict == {"reg.example:5000", "other"}


def test_known_registries_check_blobs() -> None:
    hosts = ["registry-1.docker.io", "ghcr.io", "1.dkr.ecr.eu-central-1.amazonaws.com", "eu.gcr.io"]
    assert all(quirks_of(host).checks_blobs for host in hosts)
    others = ["reg.example", "ghcr.io.evil.example", "notghcr.io", "localhost", "team.jfrog.io"]
    assert not any(quirks_of(host).checks_blobs for host in others)
