"""Structured threads: nothing outlives its block, and every wait can be interrupted.

    with TaskGroup() as group:
        first = group.start(build, "linux/amd64")
        second = group.start(build, "linux/arm64")
    use(first.result(), second.result())

The first failure cancels the group's scope; the block ends when every thread has, and raises that
failure. Blocking calls make themselves interruptible with `with on_cancel(socket.close): ...`,
long loops with `check()`. The scope of a thread is inherited from the thread that started it.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Generic, ParamSpec, Self, TypeVar

from shipline.errors import Cancelled

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
CPUS = len(os.sched_getaffinity(0))


class CancelScope:
    """A switch that is thrown once; children are thrown with their parent."""

    def __init__(self, parent: CancelScope | None = None) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._callbacks: dict[object, Callable[[], object]] = {}
        self._parent = parent
        self._token = parent._register(self.cancel) if parent is not None else None

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def cancel(self) -> None:
        """Throw the switch: wakes waiters and runs every registered callback once."""
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raises Cancelled once the scope is cancelled."""
        if self._event.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Wait; raises Cancelled as soon as the scope is cancelled."""
        if self._event.wait(seconds):
            raise Cancelled

    @contextmanager
    def on_cancel(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call `callback` when the scope is cancelled inside the block, from the other thread."""
        self.check()
        token = self._register(callback)
        try:
            yield
        finally:
            self._forget(token)

    def detach(self) -> None:
        """Stop listening to the parent."""
        if self._parent is not None and self._token is not None:
            self._parent._forget(self._token)

    def _register(self, callback: Callable[[], object]) -> object:
        token = object()
        with self._lock:
            if not self._event.is_set():
                self._callbacks[token] = callback
                return token
        callback()
        return token

    def _forget(self, token: object) -> None:
        with self._lock:
            self._callbacks.pop(token, None)


_current: contextvars.ContextVar[CancelScope] = contextvars.ContextVar("scope")
_root = CancelScope()


def scope() -> CancelScope:
    """The scope that the calling thread works in."""
    return _current.get(_root)


def check() -> None:
    """Raises Cancelled when the calling thread's work was interrupted."""
    scope().check()


def sleep(seconds: float) -> None:
    """Wait; raises Cancelled as soon as the calling thread's work is interrupted."""
    scope().sleep(seconds)


def on_cancel(callback: Callable[[], object]) -> AbstractContextManager[None]:
    """Make a blocking call interruptible: see `CancelScope.on_cancel`."""
    return scope().on_cancel(callback)


class Task(Generic[T]):
    """The result to come of one thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._outcome: tuple[T] | BaseException | None = None

    def result(self) -> T:
        """Wait for the value; raises what the thread raised, or Cancelled when interrupted."""
        with on_cancel(self._wake), self._condition:
            while self._outcome is None:
                check()
                self._condition.wait()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome[0]

    def _settle(self, outcome: tuple[T] | BaseException) -> None:
        with self._condition:
            self._outcome = outcome
            self._condition.notify_all()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()


class TaskGroup:
    """A block that ends when all threads started in it have ended."""

    def __init__(self) -> None:
        self._outer = scope()
        self.scope = CancelScope(self._outer)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None

    def start(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """Run `function` on a thread of its own."""
        task: Task[T] = Task()
        context = contextvars.copy_context()

        def run() -> None:
            _current.set(self.scope)
            try:
                task._settle((function(*args, **kwargs),))
            except BaseException as failure:  # the thread's only way to tell is the task
                task._settle(failure)
                self._fail(failure)

        thread = threading.Thread(
            target=context.run, args=(run,), name=getattr(function, "__name__", "task")
        )
        with self._lock:
            self._threads.append(thread)
        thread.start()
        return task

    def __enter__(self) -> Self:
        self._mark = _current.set(self.scope)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _current.reset(self._mark)
        if error is not None:
            self._fail(error)
        self.join()
        if self._failure is not None and self._failure is not error:
            raise self._failure
        if error is None:
            self._outer.check()

    def _fail(self, failure: BaseException) -> None:
        with self._lock:
            first, was = self._failure is None, self._failure
            if first or (isinstance(was, Cancelled) and not isinstance(failure, Cancelled)):
                self._failure = failure
        self.scope.cancel()

    def join(self) -> None:
        """Wait for every thread, also for those started meanwhile; Ctrl-C cancels and goes on."""
        done = 0
        while True:
            with self._lock:
                waiting = self._threads[done:]
            if not waiting:
                self.scope.detach()
                return
            for thread in waiting:
                try:
                    thread.join()
                except KeyboardInterrupt as interrupt:
                    self._fail(interrupt)
                    thread.join()
                done += 1


class Limiter:
    """At most `tokens` holders at once: `with limiter: ...`, interruptible while waiting."""

    def __init__(self, tokens: int) -> None:
        self._condition = threading.Condition()
        self._free = tokens

    def __enter__(self) -> None:
        with on_cancel(self._wake), self._condition:
            while self._free == 0:
                check()
                self._condition.wait()
            self._free -= 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._condition:
            self._free += 1
            self._condition.notify()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()


class Once(Generic[T]):
    """Equal work done once: the first caller of a key computes, the others wait for its result."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[object, Task[T]] = {}

    def get(self, key: object, compute: Callable[[], T]) -> T:
        """The value of `compute()`; its exception is raised to every caller of that key."""
        with self._lock:
            task = self._tasks.get(key)
            mine = task is None
            if task is None:
                task = self._tasks[key] = Task()
        if mine:
            try:
                task._settle((compute(),))
            except BaseException as failure:  # waiting callers need it as much as this one
                task._settle(failure)
        return task.result()


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, workers: int = CPUS, ahead: int = 4
) -> Iterator[R]:
    """`map` on `workers` threads: results in order, at most `workers + ahead` items in flight."""
    if workers <= 1:
        yield from map(function, items)
        return
    waiting: queue.SimpleQueue[tuple[Task[R], T] | None] = queue.SimpleQueue()

    def work() -> None:
        while (job := waiting.get()) is not None:
            task, item = job
            try:
                task._settle((function(item),))
            except BaseException as failure:  # raised where the result is taken
                task._settle(failure)

    results: deque[Task[R]] = deque()
    group = TaskGroup()  # not entered: between two results the consumer stays in its own scope
    for _ in range(workers):
        group.start(work)
    try:
        for item in items:
            task: Task[R] = Task()
            results.append(task)
            waiting.put((task, item))
            while len(results) >= workers + ahead:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
    finally:
        for _ in range(workers):
            waiting.put(None)
        group.join()
