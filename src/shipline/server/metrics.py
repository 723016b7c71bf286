"""What a registry node counts; dashboards and alerts depend on the names (docs/registry.md)."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

from shipline import __version__
from shipline.server.http import Request, Response
from shipline.server.instruments import Counter, Gauge, Instrument, Readings, render
from shipline.server.tally import Requests

_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
_PREFIX = "shipline_registry_"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Metrics:
    """The instruments of one node; the attributes are what its parts feed.

    `verdicts`: signatures that were judged, by allowed, refused or undecided. `refusals`: requests
    that a rule refused, by the name of the rule. `logins`: by ok, refused or limited. `gc_runs`: by
    ok or failed; `gc_freed` in bytes. `deliveries`: webhooks, by target and result.
    """

    def __init__(self, uploads: Callable[[], int] = lambda: 0) -> None:
        """`uploads` tells how many requests bring blobs right now."""
        self._instruments: list[Instrument] = []
        self._requests = Requests(_PREFIX)
        self._instruments.append(self._requests)
        self.verdicts = self.counter("signature_verdicts_total", "Images judged.", "verdict")
        self.refusals = self.counter("policy_refusals_total", "Requests refused.", "rule")
        self.logins = self.counter("logins_total", "Attempts to log in.", "result")
        self.gc_runs = self.counter("gc_runs_total", "Garbage collections.", "result")
        self.gc_freed = self.counter("gc_freed_bytes_total", "Bytes that collections freed.")
        self.deliveries = self.counter(
            "webhook_deliveries_total", "Webhook requests made.", "target", "result"
        )
        self.gauge("uploads_in_flight", "Requests that bring blobs now.", lambda: float(uploads()))
        self._add_process()

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A new counter; `shipline_registry_` is put before its name."""
        found = Counter(_PREFIX + name, text, labels)
        self._instruments.append(found)
        return found

    def gauge(self, name: str, text: str, read: Callable[[], Readings], *labels: str) -> None:
        """A new gauge that calls `read` when it is scraped; be quick, and never raise."""
        self._instruments.append(Gauge(_PREFIX + name, text, labels, read))

    def answered(self, request: Request, response: Response, seconds: float) -> None:
        """One request was answered after so many seconds."""
        method = request.method if request.method in _METHODS else "other"
        sent = 0 if method == "HEAD" else response.size
        self._requests.add(request.kind, method, response.status, seconds, request.received, sent)

    def render(self) -> str:
        """The answer to a scrape, text format 0.0.4."""
        return render(self._instruments)

    def _add_process(self) -> None:
        """What Prometheus calls the standard process metrics."""
        started = time.time()
        info: Readings = {(__version__, platform.python_version()): 1.0}
        own: list[tuple[str, str, Callable[[], Readings]]] = [
            ("process_cpu_seconds_total", "User and system time.", _cpu_s),
            ("process_resident_memory_bytes", "Memory in use.", lambda: _statm(1)),
            ("process_virtual_memory_bytes", "Memory mapped.", lambda: _statm(0)),
            ("process_open_fds", "Open files.", lambda: float(len(os.listdir("/proc/self/fd")))),
            ("process_max_fds", "Limit of open files.", _fd_limit),
            ("process_start_time_seconds", "Start, in Unix time.", lambda: started),
        ]
        self._instruments += [Gauge(name, text, (), read) for name, text, read in own]
        self.gauge("build_info", "The running version.", lambda: info, "version", "python")


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system


def _statm(field: int) -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return float(int(file.read().split()[field]) * _PAGE)


def _fd_limit() -> float:
    import resource

    return float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
