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

from typing import TYPE_CHECKING

from shipline.history.recorder import RunRecorder, framed, read_events
from shipline.history.records import RunState, RunSummary
from shipline.history.store import (
    RunHistory,
    delete_set_aside,
    is_run_id,
    new_run_id,
    run_directory,
    set_aside,
)
from shipline.history.tables import FileTables
from shipline.lazy import load_when_named

if TYPE_CHECKING:
    from shipline.history.compare import Reason, RunComparison, StepChange
    from shipline.history.documents import ImageDocument
    from shipline.history.explanations import explained, said
    from shipline.history.jaeger import jaeger_trace
    from shipline.history.views import LogLine, RunDetail, StepView, Transfer, unmixed
else:
    __getattr__ = load_when_named(
        __name__,
        compare="Reason RunComparison StepChange",
        documents="ImageDocument",
        explanations="explained said",
        jaeger="jaeger_trace",
        views="LogLine RunDetail StepView Transfer unmixed",
    )
