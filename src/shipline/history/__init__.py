"""The history of runs: what each build, bake and ship run did, kept from its events.

    runs/<id>/record.json    what a list shows; replaced as a whole while the run goes on
    runs/<id>/events         all events, each after its length as a 32-bit little-endian number, in
                             MessagePack; long ones are a zstd frame once the run has ended, and the
                             file is locked until then
    runs/<id>/documents      manifests, configurations and statements of its images, in MessagePack

A run that says `running` without the lock is that of a process that died. What builds need is cheap
to import; what shows runs is loaded when it is first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shipline.history.recorder import RunRecorder, framed, read_events
from shipline.history.records import RunState, RunSummary
from shipline.history.store import RunHistory, is_run_id, new_run_id, run_directory
from shipline.history.tables import FileRow, FileTables

if TYPE_CHECKING:
    from shipline.history.compare import FileChange, Reason, RunComparison, StepChange
    from shipline.history.documents import ImageDocument
    from shipline.history.explanations import explained, said
    from shipline.history.jaeger import jaeger_trace
    from shipline.history.views import LogLine, RunDetail, StepView, Transfer, WarningView, unmixed

__all__ = [
    "FileChange",
    "FileRow",
    "FileTables",
    "ImageDocument",
    "LogLine",
    "Reason",
    "RunComparison",
    "RunDetail",
    "RunHistory",
    "RunRecorder",
    "RunState",
    "RunSummary",
    "StepChange",
    "StepView",
    "Transfer",
    "WarningView",
    "explained",
    "framed",
    "is_run_id",
    "jaeger_trace",
    "new_run_id",
    "read_events",
    "run_directory",
    "said",
    "unmixed",
]

_LOADED_WHEN_NAMED = {
    **dict.fromkeys(("FileChange", "Reason", "RunComparison", "StepChange"), "compare"),
    **dict.fromkeys(("LogLine", "RunDetail", "StepView", "Transfer"), "views"),
    **dict.fromkeys(("WarningView", "unmixed"), "views"),
    **dict.fromkeys(("explained", "said"), "explanations"),
    "ImageDocument": "documents",
    "jaeger_trace": "jaeger",
}


def __getattr__(name: str) -> Any:
    if module := _LOADED_WHEN_NAMED.get(name):
        return getattr(import_module(f"shipline.history.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
