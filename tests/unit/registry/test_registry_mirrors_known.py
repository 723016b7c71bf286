"""What is known of mirrors, and the order that follows from it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from shipline.errors import AuthError, DigestMismatch, NotFound, RegistryError
from shipline.registry.hosts import Endpoint, HostSettings, parse_mirrors
from shipline.registry.mirrors import REMEMBERED_S, Measurement, Mirrors

A, B, C = HostSettings(mirrors=parse_mirrors([f"https://{one}.lan" for one in "abc"])).endpoints(
    "docker.io"
)[:3]
DOWN = RegistryError("a.lan: connection refused", host="a.lan")


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def never(endpoint: Endpoint) -> float:
    raise AssertionError(f"{endpoint.base} was probed")


def read(mirrors: Mirrors, endpoint: Endpoint, rate: float) -> None:
    """A blob of 1 MiB at `rate` bytes per second."""
    mirrors.read(endpoint, lambda size: b"x" * size, 1 << 20)
    transfer = mirrors._transfers[endpoint.base]
    transfer.busy_s = (1 << 20) / rate
    mirrors.closed(endpoint, waited=True)


def test_one_mirror_is_never_probed() -> None:
    assert Mirrors().nearest_first([A], never) == (A,)


def test_throughput_counts_for_more_than_latency() -> None:
    mirrors = Mirrors()
    mirrors.answered(A, 0.01)
    mirrors.answered(B, 0.1)
    assert mirrors.nearest_first([B, A], never) == (A, B)
    read(mirrors, A, 1e6)
    assert mirrors.nearest_first([B, A], never) == (A, B)  # B may be as slow
    read(mirrors, B, 1e8)
    assert mirrors.nearest_first([B, A], never) == (B, A)


def test_a_throughput_of_long_ago_keeps_no_mirror_from_being_measured_again() -> None:
    clock = Clock()
    mirrors = Mirrors(clock=clock)
    for one, latency_s, rate in ((A, 0.01, 1e6), (B, 0.1, 1e8)):
        mirrors.answered(one, latency_s)
        read(mirrors, one, rate)
    assert mirrors.nearest_first([A, B], never) == (B, A)
    clock.now += REMEMBERED_S
    mirrors.answered(A, 0.01)
    mirrors.answered(B, 0.1)
    assert mirrors.nearest_first([A, B], never) == (A, B)


def test_a_reader_that_is_slower_than_the_mirror_says_nothing_of_it() -> None:
    mirrors = Mirrors()
    mirrors.read(A, lambda size: b"x" * size, 1 << 20)
    mirrors.closed(A, waited=False)
    assert not mirrors.measurement(A).bytes_per_s


def test_new_measurements_count_for_more_the_older_the_known_ones_are() -> None:
    clock = Clock()
    mirrors = Mirrors(clock=clock)
    mirrors.answered(A, 1.0)
    mirrors.answered(A, 0.1)
    soon = mirrors.measurement(A).latency_s
    clock.now += REMEMBERED_S
    mirrors.answered(A, 0.1)
    assert 0.5 < soon < 1 and mirrors.measurement(A).latency_s == pytest.approx(0.1)


def test_what_is_old_is_probed_again_once() -> None:
    clock, probed = Clock(), []

    def probe(endpoint: Endpoint) -> float:
        probed.append(endpoint)
        return 0.001

    mirrors = Mirrors(clock=clock)
    mirrors.answered(A, 0.1)
    mirrors.nearest_first([A, B], probe)
    assert probed == [B]
    clock.now += REMEMBERED_S
    mirrors.nearest_first([A, B], probe)
    mirrors.nearest_first([A, B], probe)
    assert probed == [B, A]


def test_a_mirror_that_failed_is_skipped_and_for_later_commands_last(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "mirrors.json"
    first = Mirrors(file, clock)
    for one, latency_s in ((A, 0.01), (B, 0.1), (C, 0.2)):
        first.answered(one, latency_s)
    first.failed(A, DOWN)
    first.failed(B, NotFound("absent"))
    first.failed(B, AuthError("refused", host="b.lan"))
    assert first.nearest_first([A, B, C], never) == (B, C)
    first.save()
    second = Mirrors(file, clock)
    assert second.nearest_first([A, B, C], never) == (B, C, A)
    second.delivered(A)
    assert second.nearest_first([A, B, C], never) == (A, B, C)
    second.failed(A, DigestMismatch(expected="x", got="y", where="a.lan"))
    second.save()
    clock.now += 3000
    third = Mirrors(file, clock)
    assert third.nearest_first([A, B, C], never) == (B, C, A)
    clock.now += 10
    assert third.measurement(A).reason == "a.lan: expected x, got y"


def test_processes_keep_what_others_measured(tmp_path: Path) -> None:
    file = tmp_path / "mirrors.json"
    one, other = Mirrors(file), Mirrors(file)
    one.answered(A, 0.1)
    other.answered(B, 0.2)
    one.save()
    other.save()
    assert {Mirrors(file).measurement(end).latency_s for end in (A, B)} == {0.1, 0.2}


def test_processes_that_write_at_once_keep_what_others_measured(tmp_path: Path) -> None:
    file = tmp_path / "mirrors.json"
    mirrors = parse_mirrors([f"https://{number}.lan" for number in range(8)])
    ends = HostSettings(mirrors=mirrors).endpoints("docker.io")[:8]
    for _ in range(20):
        file.unlink(missing_ok=True)
        together = threading.Barrier(len(ends))

        def save(end: Endpoint, together: threading.Barrier) -> None:
            mirrors = Mirrors(file)
            mirrors.answered(end, 0.1)
            together.wait(60)
            mirrors.save()

        with ThreadPoolExecutor(len(ends)) as pool:
            list(pool.map(save, ends, [together] * len(ends)))
        assert {Mirrors(file).measurement(end).latency_s for end in ends} == {0.1}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"endpoints": {"https://a.lan": 1}}', '{"version": 2}']
)
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mirrors.json"
    file.write_text(text)
    mirrors = Mirrors(file)
    assert mirrors.measurement(A) == Measurement()
    mirrors.answered(A, 0.1)
    mirrors.save()
    assert json.loads(file.read_text())["endpoints"]["https://a.lan"]["latency_s"] == 0.1


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    mirrors = Mirrors(tmp_path / "file" / "mirrors.json")
    mirrors.answered(A, 0.1)
    mirrors.save()
