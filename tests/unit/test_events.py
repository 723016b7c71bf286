"""Events reach every sink in order, and no sink can stop the work."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from shipline.errors import UsageError
from shipline.events import Event, Finished, Logged, Progress, Started, Stream, Warned, silent


class Broken:
    """A sink that works for a while."""

    def __init__(self, calls: int = 0, *, closes: bool = True) -> None:
        self.calls = calls
        self.closes = closes
        self.seen = 0
        self.closed = False

    def __call__(self, event: Event) -> None:
        self.seen += 1
        if self.seen > self.calls:
            raise ValueError(f"sink broke at event {self.seen}")

    def close(self) -> None:
        self.closed = True
        if not self.closes:
            raise OSError("sink cannot be closed")


def _held(opened: threading.Event, seen: list[Event]) -> Callable[[Event], None]:
    """A sink that takes nothing before `opened`."""

    def sink(event: Event) -> None:
        opened.wait()
        seen.append(event)

    return sink


def test_spans_form_a_tree() -> None:
    seen: list[Event] = []
    with Stream(seen.append, clock=lambda: 7.0) as stream, stream.step("outer", kind="x") as outer:
        with outer.step("inner") as inner:
            inner.output(b"text", 2)
        outer.warn("careful", "look")
    assert seen == [
        Started(1, 7.0, "outer", 0, {"kind": "x"}),
        Started(2, 7.0, "inner", 1),
        Logged(2, 7.0, b"text", 2),
        Finished(2, 7.0),
        Warned(1, 7.0, "careful", "look"),
        Finished(1, 7.0),
    ]


def test_events_are_unicode_whatever_the_work_was_given() -> None:
    seen: list[Event] = []
    stray = b"\xff".decode(errors="surrogateescape")
    stream = Stream(seen.append, clock=lambda: 7.0)
    with pytest.raises(UsageError), stream, stream.step(stray, file=stray, size=1) as step:
        step.warn(stray, stray)
        step.note(name=stray)
        raise UsageError(stray, hint=stray)
    assert seen == [
        Started(1, 7.0, "\ufffd", 0, {"file": "\ufffd", "size": 1}),
        Warned(1, 7.0, "\ufffd", "\ufffd"),
        Finished(1, 7.0, "\ufffd", False, {"name": "\ufffd"}, "usage", 2, "\ufffd"),
    ]


def test_what_leaves_the_block_is_the_error_of_its_span() -> None:
    seen: list[Event] = []
    with Stream(seen.append) as stream, pytest.raises(KeyError), stream.step("fails") as step:
        step.cached()
        step.note(size=3)
        raise KeyError
    last = seen[-1]
    assert isinstance(last, Finished)
    assert (last.error, last.cached, last.attributes) == ("KeyError", True, {"size": 3})


def test_the_end_of_a_span_has_what_the_box_of_its_error_has() -> None:
    seen: list[Event] = []
    with Stream(seen.append) as stream, pytest.raises(UsageError), stream.step("fails"):
        raise UsageError("no such target", code="target-unknown", hint="name one of a, b")
    last = seen[-1]
    assert isinstance(last, Finished)
    assert (last.code, last.exit_code, last.hint) == ("target-unknown", 2, "name one of a, b")


def test_a_sink_that_raises_stops_neither_the_work_nor_the_others() -> None:
    seen: list[Event] = []
    broken = Broken(calls=1)
    with Stream(broken, seen.append) as stream, stream.step("work") as step:
        for number in range(20_000):  # more than the queue holds
            step.output(b"%d" % number)
    assert len(seen) == 20_002
    assert broken.seen == 2
    assert [str(one) for one in stream.failures] == ["sink broke at event 2"]


def test_every_sink_is_closed_whatever_the_others_do() -> None:
    broken, stubborn, last = Broken(), Broken(calls=99, closes=False), Broken(calls=99)
    with Stream(broken, stubborn, last) as stream, stream.step("work"):
        pass
    assert broken.closed and stubborn.closed and last.closed
    assert [type(one) for one in stream.failures] == [ValueError, OSError]


def test_sinks_are_closed_after_the_last_event() -> None:
    order: list[str] = []

    class Sink:
        def __call__(self, event: Event) -> None:
            order.append(type(event).__name__)

        def close(self) -> None:
            order.append("close")

    with Stream(Sink()) as stream, stream.step("work"):
        pass
    assert order == ["Started", "Finished", "close"]


def test_a_failing_block_still_delivers_and_closes() -> None:
    sink = Broken(calls=99)
    with pytest.raises(KeyError), Stream(sink) as stream, stream.step("work"):
        raise KeyError
    assert sink.seen == 2
    assert sink.closed


def test_a_slow_sink_costs_progress_alone() -> None:
    seen: list[Event] = []
    opened = threading.Event()
    with Stream(_held(opened, seen)) as stream, stream.step("work") as step:
        for number in range(6000):  # more than the progress that may wait, less than all
            step.progress(number)
        for _ in range(1000):
            step.output(b"kept")
        opened.set()
    kinds = [type(event) for event in seen]
    assert kinds.count(Logged) == 1000
    assert 0 < kinds.count(Progress) < 6000
    assert kinds[0] is Started
    assert kinds[-1] is Finished


def test_a_full_queue_holds_the_work_up_and_loses_nothing() -> None:
    seen: list[Event] = []
    opened = threading.Event()

    def work(stream: Stream) -> None:
        for number in range(9000):
            stream.emit(Logged(1, 0.0, b"%d" % number))

    with Stream(_held(opened, seen)) as stream:
        worker = threading.Thread(target=work, args=(stream,))
        worker.start()
        worker.join(0.3)
        assert worker.is_alive()
        opened.set()
        worker.join()
    assert [one.data for one in seen if isinstance(one, Logged)] == [
        b"%d" % number for number in range(9000)
    ]


def test_each_span_keeps_its_order_under_many_threads() -> None:
    seen: list[Event] = []

    def work(stream: Stream, name: str) -> None:
        with stream.step(name) as step:
            for number in range(200):
                step.output(b"%d" % number)

    with Stream(seen.append) as stream:
        threads = [threading.Thread(target=work, args=(stream, f"{n}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for span in range(1, 9):
        own = [event for event in seen if event.span == span]
        assert isinstance(own[0], Started)
        assert isinstance(own[-1], Finished)
        assert [one.data for one in own if isinstance(one, Logged)] == [
            b"%d" % number for number in range(200)
        ]


def test_silence_needs_no_sink() -> None:
    with silent() as step, step.step("inner") as inner:
        inner.progress(1, 2)
