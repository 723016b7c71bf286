"""A run as a trace in the JSON of Jaeger's interface, which `docker buildx history trace` prints.

Source: jaegertracing/jaeger, model/json/model.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from shipline.events import Attribute, Event, Finished, Started, Warned
from shipline.history.records import RunSummary

_KINDS = {bool: "bool", int: "int64", float: "float64", str: "string"}
_LONG = frozenset({"parts", "files", "dockerfile", "materials"})


def jaeger_trace(run: RunSummary, events: Iterable[Event]) -> dict[str, Any]:
    """All spans of a run, those that did not end without a duration."""
    trace = run.trace or hashlib.sha256(run.id.encode()).hexdigest()[:32]
    spans: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, Started):
            spans[event.span] = _begun(event, trace)
        elif isinstance(event, Finished) and event.span in spans:
            _end(spans[event.span], event)
        elif isinstance(event, Warned) and event.span in spans:
            fields = _tags({"event": "warning", "message": event.message})
            spans[event.span]["logs"].append({"timestamp": _micro(event.at), "fields": fields})
    process = {"serviceName": "shipline", "tags": _tags({"cicd.pipeline.run.id": run.id})}
    data = {"traceID": trace, "spans": [*spans.values()], "processes": {"p1": process}}
    return {"data": [{**data, "warnings": None}]}


def _begun(event: Started, trace: str) -> dict[str, Any]:
    above = {"refType": "CHILD_OF", "traceID": trace, "spanID": f"{event.parent:016x}"}
    return {
        "traceID": trace,
        "spanID": f"{event.span:016x}",
        "operationName": event.name,
        "references": [above] if event.parent else [],
        "startTime": _micro(event.at),
        "duration": 0,
        "tags": _tags(event.attributes),
        "logs": [],
        "processID": "p1",
        "warnings": None,
    }


def _end(span: dict[str, Any], event: Finished) -> None:
    span["duration"] = max(_micro(event.at) - span["startTime"], 0)
    found: dict[str, Attribute] = dict(event.attributes)
    if event.cached:
        found["cached"] = True
    if event.error:
        found |= {"error": True, "error.message": event.error}
    span["tags"] += _tags(found)


def _tags(attributes: Mapping[str, Attribute]) -> list[dict[str, Any]]:
    return [
        {"key": name, "type": _KINDS[type(value)], "value": value}
        for name, value in attributes.items()
        if name.partition(" ")[0] not in _LONG
    ]


def _micro(at: float) -> int:
    return int(at * 1e6)
