"""The history of runs: what each build, bake and ship run did, kept from its events.

    runs/<id>/record.json    what a list shows; replaced as a whole while the run goes on
    runs/<id>/events         all events, each after its length as a 32-bit little-endian number, in
                             MessagePack; one zstd frame once the run has ended, locked until then
    runs/<id>/documents      manifests, configurations and statements of its images, in MessagePack

A run that says `running` without the lock is that of a process that died.
"""

from shipline.history.compare import FileChange, Reason, RunComparison, StepChange
from shipline.history.documents import ImageDocument
from shipline.history.jaeger import jaeger_trace
from shipline.history.recorder import RunRecorder
from shipline.history.records import RunState, RunSummary
from shipline.history.store import RunHistory, new_run_id
from shipline.history.tables import FileRow, FileTables
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
    "jaeger_trace",
    "new_run_id",
    "unmixed",
]
