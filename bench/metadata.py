"""The article's table of metadata stores, measured: `python -m bench.metadata [--seconds N]`.

Every write is one registry-sized transaction (a manifest with its tag and indexes, eight records),
on the disk when it returns. Reads are single keys out of 100,000, by one thread and by sixteen.
Right before each measurement of writes the disk itself is asked for an fdatasync(2): on a busy
machine the ratio says more than the milliseconds.

Then the cache in levels, on a Redis and a Valkey of its own: blobs of a registry that are known in
this process, on the server, and nowhere. Every answer is opened with its key.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import count, repeat
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bench.meter import directory
from peers import REDIS, redis
from shipline.errors import ConfigError
from shipline.metadata import (
    DRIVERS,
    Key,
    LeveledCache,
    Records,
    RedisCache,
    RedisUrl,
    SqliteRecords,
    open_records,
)
from shipline.registry.credentials import Credentials
from shipline.registry.shared import SealedCache, SharedCache
from shipline.values import replace

_ROWS = 100_000
_VALUE = b"v" * 160  # bytes
_WRITERS = (1, 16)
_CLAIMS_MS = {"sqlite": (10.0, 50.0), "rocksdb": (1.0, 5.0)}  # the article, a write
_CLAIM_MEAN_MS = 5.0  # the article, an answer of the cache
_FACTS = 20_000  # twice what the process keeps, so that it has forgotten the next one
_REPOSITORY = "https://registry.example/team/app"


@dataclass(frozen=True, slots=True)
class Measured:
    """Latencies in milliseconds, rates per second."""

    driver: str
    work: str
    threads: int
    p50: float
    p99: float
    rate: float
    disk_p50: float = 0.0  # of an fdatasync(2), just before
    mean: float = 0.0
    cpu_us: float = 0.0  # of this process, for each; threads wait for one lock, the interpreter's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--directory", type=directory, default=None, help="on the disk to measure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with _scratch(options.directory) as scratch:
        found = [one for driver in DRIVERS for one in _driver(scratch, driver, options.seconds)]
        answers = [one for name in REDIS for one in _cache(scratch, name, options.seconds / 3)]
    if options.json:
        print(json.dumps([asdict(one) for one in (*found, *answers)], indent=1))
    else:
        _show(found)
        _show_answers(answers)


def _driver(scratch: Path, driver: str, seconds: float) -> Iterator[Measured]:
    try:
        records = open_records(scratch / driver, driver)
    except ConfigError as error:
        print(f"{driver}: {error.message}; {error.hint}")
        return
    with closing(records):
        _fill(records)
        for threads in _WRITERS:
            disk = _disk(scratch, seconds / 4).p50
            write = _measured(driver, "durable write", threads, seconds, lambda: _writer(records))
            yield replace(write, disk_p50=disk)
        for threads in _WRITERS:
            yield _measured(driver, "read", threads, seconds, lambda: _reader(records))


def _fill(records: Records) -> None:
    for start in range(0, _ROWS, 5000):
        rows: dict[Key, bytes | None] = {
            ("row", str(number)): _VALUE for number in range(start, start + 5000)
        }
        records.write(rows, durable=False)
    records.write({})


def _writer(records: Records) -> Callable[[], None]:
    chance = random.Random(threading.get_ident())

    def write() -> None:
        name, digest = f"project/{chance.randrange(100)}", f"{chance.getrandbits(256):064x}"
        changes: dict[Key, bytes | None] = {
            ("repository", name): b"",
            ("manifest", name, digest): _VALUE,
            ("holder", digest, name, "manifest"): b"",
            ("tag", name, digest[:8]): _VALUE,
            ("tagged", name, digest, digest[:8]): b"",
            ("needed", name, digest[::-1], digest): b"",
        }
        records.write(changes, add={("usage", name, "manifests"): 1, ("usage", name, "tags"): 1})

    return write


def _reader(records: Records) -> Callable[[], None]:
    chance = random.Random(threading.get_ident())

    def read() -> None:
        assert records.get(("row", str(chance.randrange(_ROWS)))) == _VALUE

    return read


def _cache(scratch: Path, name: str, seconds: float) -> Iterator[Measured]:
    if shutil.which(name) is None:
        print(f"{name}: not installed")
        return
    with (
        redis(scratch / name, server=name) as server,
        closing(SqliteRecords(scratch / f"{name}.db")) as records,
    ):
        levels = LeveledCache(RedisCache(RedisUrl.parse(server.url)), records)
        sealed = SharedCache(levels).of("registry.example", Credentials("pusher", "secret"))
        for number in range(_FACTS):
            sealed.put(b"", 3600, "blob", _REPOSITORY, str(number))
        for threads in _WRITERS:
            for work, here, numbers in (
                ("hit in the process", True, lambda: repeat(0)),
                ("hit on the server", True, _turns),
                ("miss at all levels", False, lambda: count(_FACTS)),
            ):
                make = _asker(sealed, numbers(), here=here)
                yield _measured(name.partition("-")[0], work, threads, seconds, make)


def _turns() -> Iterator[int]:
    """All facts in turn: the process has forgotten those that come next."""
    return map(_FACTS.__rmod__, count())


def _asker(
    sealed: SealedCache, numbers: Iterator[int], *, here: bool
) -> Callable[[], Callable[[], None]]:
    def ask() -> None:
        answer = sealed.get("blob", _REPOSITORY, str(next(numbers)))
        if (answer is not None) is not here:
            raise SystemExit("the server took too long: this machine is too busy to measure")

    return lambda: ask


def _measured(
    driver: str, work: str, threads: int, seconds: float, make: Callable[[], Callable[[], None]]
) -> Measured:
    """Call what `make` makes, on each of `threads` threads, for as long."""
    times: list[float] = []
    cpu_s = -time.process_time()
    end = time.perf_counter() + seconds

    def run() -> None:
        call, mine = make(), []
        while (begun := time.perf_counter()) < end:
            call()
            mine.append(time.perf_counter() - begun)
        times.extend(mine)

    with ThreadPoolExecutor(threads) as pool:
        for worker in [pool.submit(run) for _ in range(threads)]:
            worker.result()
    cpu_s += time.process_time()
    times.sort()
    mean = sum(times) / len(times) * 1000
    p50, p99 = (times[int(len(times) * part)] * 1000 for part in (0.5, 0.99))
    return Measured(
        *(driver, work, threads, round(p50, 4), round(p99, 4), round(len(times) / seconds)),
        mean=round(mean, 4),
        cpu_us=round(cpu_s / len(times) * 1e6, 1),
    )


def _disk(scratch: Path, seconds: float) -> Measured:
    """What the disk itself takes for 4 KiB and fdatasync(2): no durable store is quicker alone."""
    fd = os.open(scratch / "probe", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, b"\0" * (1 << 20), 0)
        os.fsync(fd)

        def sync() -> None:
            os.pwrite(fd, _VALUE * 25, 0)
            os.fdatasync(fd)

        return _measured("disk", "fdatasync", 1, seconds, lambda: sync)
    finally:
        os.close(fd)


def _show(found: list[Measured]) -> None:
    print(
        f"{'store':9}{'work':15}{'threads':>8}{'p50 ms':>10}{'p99 ms':>10}{'per s':>11}"
        f"{'CPU us':>8}{'fdatasync':>11}{'ratio':>7}  article"
    )
    for one in found:
        low, high = _CLAIMS_MS[one.driver]
        line = f"{one.driver:9}{one.work:15}{one.threads:8}{one.p50:10.3f}{one.p99:10.3f}"
        line += f"{one.rate:11,.0f}{one.cpu_us:8.0f}"
        if one.disk_p50:
            line += f"{one.disk_p50:11.3f}{one.p50 / one.disk_p50:7.1f}  {low:.0f}-{high:.0f} ms"
            line += ": below" if one.p50 < low else ": not below"
        print(line)


def _show_answers(found: list[Measured]) -> None:
    print(
        f"\n{'cache':9}{'answer':20}{'threads':>8}{'mean ms':>10}{'p50 ms':>10}{'p99 ms':>10}"
        f"{'per s':>11}{'CPU us':>8}  article: mean under {_CLAIM_MEAN_MS:.0f} ms"
    )
    for one in found:
        line = f"{one.driver:9}{one.work:20}{one.threads:8}{one.mean:10.3f}{one.p50:10.3f}"
        line += f"{one.p99:10.3f}{one.rate:11,.0f}{one.cpu_us:8.0f}"
        print(f"{line}  {_CLAIM_MEAN_MS / one.mean:.0f} times")


@contextmanager
def _scratch(directory: Path | None) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="bench-metadata-", dir=directory))
    try:
        yield place
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
