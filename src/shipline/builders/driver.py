"""What a driver does: it reaches, starts, stops and removes the daemon of one node.

What it can is a value, in `capabilities`. `nodes` knows the drivers by name. Source: docker/buildx,
driver/driver.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import Protocol

from shipline.buildkit.control import Control
from shipline.engines import EngineError
from shipline.errors import BuilderError, UsageError
from shipline.events import Step
from shipline.grpc.connection import Pipe


class InvalidDriverOption(UsageError):
    """An option of a driver is unknown, or has a value that it does not take."""

    code = "driver-option"


class State(StrEnum):
    """What a daemon does; `INACTIVE` is one that does not exist."""

    INACTIVE = "inactive"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Driver(Protocol):
    """The daemon of one node. All raise BuilderError."""

    def state(self) -> State:
        """Asked of what runs the daemon, not of the daemon."""

    def boot(self, step: Step) -> None:
        """Ensure that the daemon runs and answers: create it if it is missing, start it if it is
        stopped; one that runs, or that others start, is left alone. What is done is a step below
        `step`. A daemon that was created and does not answer is removed.
        """

    def open(self, key: str = "") -> AbstractContextManager[Control]:
        """Its API, inside the block; the daemon must run. Of several that are equal, the same `key`
        leads to the same, for the sake of its cache.
        """

    def dial(self) -> AbstractContextManager[Pipe]:
        """The bytes to and from its API, inside the block, for another program; also raises
        OSError.
        """

    def stop(self) -> None:
        """Stop the daemon, if it runs; what it keeps stays."""

    def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        """Remove the daemon and what it keeps; quiet about what does not exist."""


@contextmanager
def engine_errors() -> Iterator[None]:
    """Raises BuilderError for the errors of a container engine, and a time limit."""
    try:
        yield
    except (EngineError, TimeoutError) as error:
        message = error.message if isinstance(error, EngineError) else f"the engine: {error}"
        raise BuilderError(
            message,
            code="builder-no-answer",
            hint="the builder is in that engine: see `docker info`, or name another engine with"
            " `shipline builder create`",
            retriable=True,
        ) from None
