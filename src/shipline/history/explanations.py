"""Why a step ran, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from shipline.history.compare import Reason
from shipline.units import counted

_WAYS = {
    "added": "{path} was added",
    "removed": "{path} was removed",
    "changed": "{path} changed",
    "kind": "{path} is of another kind",
    "mode": "{path} has the mode {after}, before {before}",
    "owner": "{path} belongs to {after}, before to {before}",
}


def explained(reason: Reason) -> Iterator[str]:
    """Lines that say a reason, with what it goes back to indented below it."""
    yield said(reason)
    for file in reason.files[1:]:
        yield _WAYS[file.how].format(path=file.path, before=file.before, after=file.after)
    if reason.more:
        yield f"and {counted(reason.more, 'other file')}"
    for one in reason.because:
        yield from (f"  {line}" for line in explained(one))


def said(reason: Reason) -> str:
    """A reason in one sentence, without what it goes back to."""
    name, before, after = reason.name, reason.before, reason.after
    match reason.kind:
        case "fresh":
            return "--no-cache was given"
        case "new":
            return "the other run did not have it"
        case "unknown":
            return "the other run does not say what its key was made of"
        case "failed":
            return "it had no result: it failed before"
        case "evicted":
            return "its key is the same: the result had left the cache"
        case "variable":
            change = "changed" if before and after else "was added" if after else "was removed"
            return f"the variable {name} {change}"
        case "image" if before and after and before.startswith("sha256:"):
            return f"the base image {name} changed: {before[:19]} -> {after[:19]}"
        case "image":
            return f"the base image changed: {before or 'none'} -> {after or 'none'}"
        case "instruction":
            return f"the instruction changed; before: {before}"
        case "files" if reason.files:
            file = reason.files[0]
            return _WAYS[file.how].format(path=file.path, before=file.before, after=file.after)
        case "files":
            change = "changed" if before and after else "is new" if after else "is gone"
            return f"{name} {change}"
        case "step":
            return f"{name} has another result"
    shown = f": {before[:12]} -> {after[:12]}" if before and after else ""
    return f"{name} changed{shown}"
