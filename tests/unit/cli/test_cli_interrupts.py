"""What an interrupted command ends with."""

from __future__ import annotations

import os
import signal
import sys
from importlib.abc import MetaPathFinder

import pytest

from shipline.cli import main
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


@pytest.mark.parametrize("argv", [["build", "."], ["status"]])
def test_an_interrupt_before_the_program_is_loaded_has_no_traceback(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name == "shipline.cli.program":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "shipline.cli.program", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert main(argv) == 130
    assert capsys.readouterr().err == "interrupted\n"
