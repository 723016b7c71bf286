"""Structured threads: nothing outlives its block, and every wait can be interrupted.

    with TaskGroup() as group:
        first = group.start(build, "linux/amd64")
        second = group.start(build, "linux/arm64")
    use(first.result(), second.result())

The first failure cancels the group's scope; the block ends when every thread has ended, and raises
that failure, with what else failed meanwhile as its `others`. Blocking calls make themselves
interruptible with `with on_cancel(socket.close): ...`, long loops with `check()`. The scope of a
thread is inherited from the thread that started it.
"""

from __future__ import annotations

import contextvars
import fcntl
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Generic, ParamSpec, Self, TypeVar

from shipline.errors import Cancelled, SandboxError, ShiplineError

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
N = TypeVar("N", bound=Hashable)
CPUS = len(os.sched_getaffinity(0))


class CancelScope:
    """A flag that is set once; cancelling a scope cancels its children."""

    def __init__(self, parent: CancelScope | None = None) -> None:
        self._mutex = threading.RLock()
        self._lock = threading.Condition(self._mutex)
        self._event = threading.Event()
        self._callbacks: dict[object, Callable[[], object]] = {}
        self._running: object | None = None
        self._caller = 0
        self._parent = parent
        self._token = parent._register(self.cancel) if parent is not None else None

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def cancel(self) -> None:
        """Cancel the scope: wakes waiters and runs every registered callback once.

        All callbacks run; the first failure is raised at the end.
        """
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
        failures = []
        while token := self._begin():
            try:
                self._callbacks[token]()
            except BaseException as failure:  # the other callbacks must run too
                failures.append(failure)
            finally:
                self._end(token)
        if failures:
            raise failures[0]

    def check(self) -> None:
        """Raises Cancelled once the scope is cancelled."""
        if self._event.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Wait; raises Cancelled as soon as the scope is cancelled."""
        if self._event.wait(seconds):
            raise Cancelled

    def on_cancel(self, callback: Callable[[], object]) -> AbstractContextManager[None]:
        """Call `callback`, on the cancelling thread, if the scope is cancelled inside the block.

        It never runs after the block has ended, so what it uses may be released then. Entering the
        block raises Cancelled if the scope is cancelled already.
        """
        return _CancelCallback(self, callback)

    def detach(self) -> None:
        """Detach from the parent."""
        if self._parent is not None and self._token is not None:
            self._parent._forget(self._token)

    def _register(self, callback: Callable[[], object]) -> object:
        token = object()
        with self._mutex:
            if not self._event.is_set():
                self._callbacks[token] = callback
                return token
        callback()
        return token

    def _begin(self) -> object | None:
        with self._lock:
            self._caller = threading.get_ident()
            self._running = next(iter(self._callbacks), None)
            return self._running

    def _end(self, token: object) -> None:
        with self._lock:
            self._running = None
            self._callbacks.pop(token, None)
            self._lock.notify_all()

    def _forget(self, token: object) -> None:
        """When this returns, the callback is not running and will not run."""
        with self._mutex:
            while self._running is token and self._caller != threading.get_ident():
                self._lock.wait()
            self._callbacks.pop(token, None)


class _CancelCallback:
    """The block of `CancelScope.on_cancel`: a class, since every read of a socket enters one."""

    __slots__ = ("_callback", "_scope", "_token")

    def __init__(self, scope: CancelScope, callback: Callable[[], object]) -> None:
        self._scope = scope
        self._callback = callback

    def __enter__(self) -> None:
        self._scope.check()
        self._token = self._scope._register(self._callback)

    def __exit__(self, *_: object) -> None:
        self._scope._forget(self._token)


_current: contextvars.ContextVar[CancelScope] = contextvars.ContextVar("scope")
_root = CancelScope()


def scope() -> CancelScope:
    """The scope of the calling thread."""
    return _current.get(_root)


def check() -> None:
    """Raises Cancelled when the calling thread's work was interrupted."""
    scope().check()


def sleep(seconds: float) -> None:
    """Wait; raises Cancelled as soon as the calling thread's work is interrupted."""
    scope().sleep(seconds)


def repeat(every_s: float, work: Callable[[], object]) -> None:
    """Call `work` every `every_s` seconds, not at once, until the scope is cancelled. Raises what
    `work` raises.
    """
    with suppress(Cancelled):
        while True:
            sleep(every_s)
            work()


def exclusively(fd: int) -> None:
    """Take the lock of an open file alone, for `locked`. Raises BlockingIOError if it is held."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


LOCK_POLL_S = 0.02


def lock(fd: int, acquire: Callable[[int], object] = exclusively) -> None:
    """Take the lock that `acquire` takes of an open file. While it raises BlockingIOError, this
    waits, and can be interrupted: flock(2) could not.
    """
    while True:
        try:
            acquire(fd)
            return
        except BlockingIOError:
            sleep(LOCK_POLL_S)


@contextmanager
def locked(
    path: str | os.PathLike[str],
    acquire: Callable[[int], object] = exclusively,
    flags: int = os.O_CREAT | os.O_RDWR,
) -> Iterator[None]:
    """Hold a lock, as `lock`, of the file `path`, which is created if it is missing. A process that
    dies releases it.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        lock(fd, acquire)
        yield
    finally:
        os.close(fd)


def flocked(
    path: str | os.PathLike[str], operation: int, flags: int = os.O_CREAT | os.O_RDWR
) -> AbstractContextManager[None]:
    """As `locked`, with LOCK_SH or LOCK_EX of flock(2)."""
    return locked(path, lambda fd: fcntl.flock(fd, operation | fcntl.LOCK_NB), flags)


def directory_lock(path: Path, operation: int = fcntl.LOCK_EX) -> AbstractContextManager[None]:
    """Hold the lock of a directory, by default alone. It goes with the process, and leaves no file.
    Raises OSError.
    """
    return flocked(path, operation, os.O_RDONLY | os.O_DIRECTORY)


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Whether a process holds the lock of a file alone; False if there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def on_cancel(callback: Callable[[], object]) -> AbstractContextManager[None]:
    """Make a blocking call interruptible: see `CancelScope.on_cancel`."""
    return scope().on_cancel(callback)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt what the block waits for after `seconds`. Raises TimeoutError then."""
    limited = CancelScope(scope())
    timer = threading.Timer(seconds, limited.cancel)
    try:
        timer.start()
    except RuntimeError as error:
        raise _no_thread(error) from error
    token = _current.set(limited)
    try:
        try:
            yield
        finally:
            _current.reset(token)
            timer.cancel()
            timer.join()
            limited.detach()
    except Cancelled:
        check()
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None


@contextmanager
def after_cancel(seconds: float) -> Iterator[None]:
    """A time limit for what is undone after a failure, which an interruption of the calling
    thread's work does not end. Raises TimeoutError.
    """
    token = _current.set(CancelScope())
    try:
        with time_limit(seconds):
            yield
    finally:
        _current.reset(token)


class Task(Generic[T]):
    """The future result of one thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._outcome: tuple[T] | BaseException | None = None

    def result(self) -> T:
        """Wait for the value; raises the thread's exception, or Cancelled if the caller is
        interrupted first.
        """
        if self._outcome is None:
            with on_cancel(self._wake), self._condition:
                while self._outcome is None:
                    check()
                    self._condition.wait()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome[0]

    @property
    def settled(self) -> bool:
        """Whether there is an outcome."""
        return self._outcome is not None

    def settle(self, outcome: tuple[T] | BaseException) -> None:
        """Set the value, in a tuple, or the failure, and wake the waiters."""
        with self._condition:
            self._outcome = outcome
            self._condition.notify_all()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()


class TaskGroup:
    """A block that ends when every task started in it has ended.

    With `at_once`, at most that many threads run and further tasks queue; a task must not wait for
    one that was started later. Without it, each task has its own thread.
    """

    def __init__(self, at_once: int | None = None) -> None:
        self._outer = scope()
        self.scope = CancelScope(self._outer)
        self._at_once = at_once
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self._working = 0
        self._failure: BaseException | None = None

    def start(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """Run `function` on a thread. Raises SandboxError if no thread can be started."""
        task: Task[T] = Task()
        context = contextvars.copy_context()

        def run() -> None:
            _current.set(self.scope)
            try:
                task.settle((function(*args, **kwargs),))
            except BaseException as failure:  # reported through the task
                task.settle(failure)
                self._fail(failure)

        job = partial(context.run, run)
        name = getattr(function, "__name__", "task")
        with self._lock:
            if self._at_once is None:
                self._start_thread(job, name)
            else:
                self._enqueue(job, name, self._at_once)
        return task

    def _enqueue(self, job: Callable[[], None], name: str, at_once: int) -> None:
        self._jobs.append(job)
        if self._working == at_once:
            return
        try:
            self._start_thread(self._work, name)
        except SandboxError:
            if not self._working:
                self._jobs.remove(job)
                raise
            return  # the running threads will get to it
        self._working += 1

    def _start_thread(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name)
        try:
            thread.start()
        except RuntimeError as error:
            raise _no_thread(error) from error
        self._threads.append(thread)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._working -= 1
                    return
                job = self._jobs.popleft()
            job()

    def __enter__(self) -> Self:
        self._context_token = _current.set(self.scope)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _current.reset(self._context_token)
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
            elif isinstance(was, ShiplineError) and isinstance(failure, ShiplineError):
                was.add_other(failure)
        with suppress(BaseException):  # of a callback; `failure` is the cause
            self.scope.cancel()

    def join(self) -> None:
        """Wait for every thread, including any started meanwhile; Ctrl-C cancels the scope."""
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


def _no_thread(error: RuntimeError) -> SandboxError:
    return SandboxError(
        f"cannot start a thread besides the {threading.active_count()} running: {error}",
        code="threads",
        hint="raise the limit of processes (ulimit -u, or the pids limit of the container)",
    )


def visit_graph(
    roots: Iterable[N],
    inputs: Callable[[N], Iterable[N]],
    work: Callable[[N], object],
    *,
    at_once: int,
) -> None:
    """Run `work` once on every node reachable from `roots`, on the `inputs` of a node before it.

    `inputs` is called once per node, on one of `at_once` threads, of which the calling one is the
    first, and may block. The newest job runs first, so that the backlog grows with the depth of the
    graph, not with its breadth.
    """
    _Visit(inputs, work, at_once).run(roots)


class _Visit(Generic[N]):
    """A graph walk: jobs that are ready, and how many inputs each other node waits for."""

    def __init__(
        self, inputs: Callable[[N], Iterable[N]], work: Callable[[N], object], at_once: int
    ) -> None:
        self._inputs = inputs
        self._job = work
        self._group = TaskGroup(at_once)
        self._at_once = at_once
        self._working = 1  # threads
        self._lock = threading.Lock()
        self._ready: list[tuple[Callable[[N], None], N]] = []
        self._dependents: dict[N, list[N]] = {}
        self._waiting_for: dict[N, int] = {}
        self._done: set[N] = set()

    def run(self, roots: Iterable[N]) -> None:
        with self._group:
            for root in reversed(list(dict.fromkeys(roots))):
                self._discover(root)
            self._work()

    def _discover(self, node: N) -> None:
        with self._lock:
            if node in self._dependents:
                return
            self._dependents[node] = []
        self._start(self._expand, node)

    def _expand(self, node: N) -> None:
        inputs = list(dict.fromkeys(self._inputs(node)))
        with self._lock:
            pending = [item for item in inputs if item not in self._done]
            undiscovered = [item for item in pending if item not in self._dependents]
            for item in pending:
                self._dependents.setdefault(item, []).append(node)
            self._waiting_for[node] = len(pending)
        for item in reversed(undiscovered):
            self._start(self._expand, item)
        if not pending:
            self._start(self._finish, node)

    def _finish(self, node: N) -> None:
        self._job(node)
        with self._lock:
            self._done.add(node)
            del self._waiting_for[node]
            ready = []
            for dependent in self._dependents[node]:
                self._waiting_for[dependent] -= 1
                if not self._waiting_for[dependent]:
                    ready.append(dependent)
            self._dependents[node] = []
        for dependent in ready:
            self._start(self._finish, dependent)

    def _start(self, job: Callable[[N], None], node: N) -> None:
        with self._lock:
            self._ready.append((job, node))

    def _work(self) -> None:
        """Do what is ready, until nothing is; a thread that leaves more starts another one."""
        while True:
            check()
            with self._lock:
                if not self._ready:
                    self._working -= 1
                    return
                job, node = self._ready.pop()
                more = bool(self._ready) and self._working < self._at_once
                self._working += more
            if more:
                self._group.start(self._work)
            job(node)


_PATIENCE_S = 5.0


class Limiter:
    """At most `tokens` holders at once: `with limiter: ...`, interruptible while waiting."""

    def __init__(self, tokens: int) -> None:
        self._condition = threading.Condition()
        self._most = self._tokens = self._free = tokens

    def resize(self, tokens: int) -> None:
        """From now on at most `tokens` holders; those there are keep what they hold.

        With fewer than at first, whoever waits for longer than `_PATIENCE_S` while none leaves goes
        ahead: it may be what the holders wait for.
        """
        with self._condition:
            self._free += tokens - self._tokens
            self._tokens = tokens
            self._condition.notify_all()

    def __enter__(self) -> None:
        check()
        with self._condition:
            if self._free > 0:
                self._free -= 1
                return
        with on_cancel(self._wake), self._condition:
            while self._free <= 0:
                check()
                reduced = self._tokens - self._free < self._most
                if not self._condition.wait(_PATIENCE_S if reduced else None) and reduced:
                    break
            self._free -= 1

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._free += 1
            self._condition.notify()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()


class Once(Generic[T]):
    """Deduplicates work: the first caller of a key computes, the others wait for its result."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[object, Task[T]] = {}

    def get(self, key: object, compute: Callable[[], T]) -> T:
        """The value of `compute()`; its exception is raised to every caller of that key.

        If the computing caller is interrupted, a waiting one takes over.
        """
        while True:
            with self._lock:
                task = self._tasks.get(key)
                mine = task is None
                if task is None:
                    task = self._tasks[key] = Task()
            if mine:
                self._compute(key, task, compute)
                return task.result()
            try:
                return task.result()
            except Cancelled:
                check()

    def _compute(self, key: object, task: Task[T], compute: Callable[[], T]) -> None:
        try:
            outcome: tuple[T] | BaseException = (compute(),)
        except BaseException as failure:  # for the waiting callers too
            outcome = failure
        if isinstance(outcome, Cancelled):
            with self._lock:
                del self._tasks[key]
        task.settle(outcome)


def run_all(
    function: Callable[[T], R], items: Iterable[T], *, at_once: int | None = None
) -> list[R]:
    """The results of `function` for all items, in their order. The last one runs on the calling
    thread, each of the others on its own, of which there are `at_once` at most.
    """
    if not (waiting := list(items)):
        return []
    *others, last = waiting
    with TaskGroup(at_once) as group:
        tasks = [group.start(function, one) for one in others]
        result = function(last)
    return [*(task.result() for task in tasks), result]


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, workers: int = CPUS, ahead: int = 4
) -> Generator[R, None, None]:
    """`map` on `workers` threads: results in order, at most `workers + ahead` items in flight."""
    if workers <= 1:
        yield from map(function, items)
        return
    waiting: queue.SimpleQueue[tuple[Task[R], T] | None] = queue.SimpleQueue()

    def work() -> None:
        while (job := waiting.get()) is not None:
            task, item = job
            try:
                task.settle((function(item),))
            except BaseException as failure:  # raised by result()
                task.settle(failure)

    results: deque[Task[R]] = deque()
    group = TaskGroup()  # not entered: the consumer stays in its own scope between results
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
