"""What an interrupted command ends with."""

from __future__ import annotations

import os
import signal

import pytest

from shipline.cli.interrupts import run_cancellable
from shipline.errors import BuilderError, Cancelled
from shipline.tasks import check, sleep


def test_work_that_fails_by_its_interruption_is_interrupted() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            sleep(60)
            check()
        except Cancelled:
            raise BuilderError("the connection was closed") from None

    with pytest.raises(Cancelled):
        run_cancellable(work, lambda: None)


def test_work_that_fails_by_itself_has_its_own_error() -> None:
    def work() -> None:
        raise BuilderError("the connection was closed")

    with pytest.raises(BuilderError):
        run_cancellable(work, lambda: None)
