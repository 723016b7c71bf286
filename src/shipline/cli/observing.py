"""How long commands open their event stream: displays, the history, telemetry."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from shipline.errors import ShiplineError
from shipline.events import Attribute, Sink, Step, Stream
from shipline.home import state_directory
from shipline.net import without_logins
from shipline.oci import Descriptor
from shipline.propagation import Trace
from shipline.telemetry import begin_trace, open_telemetry
from shipline.units import as_unicode

if TYPE_CHECKING:
    from shipline.build import BuildRequest, BuildResult
    from shipline.history import RunHistory, RunRecorder

_KEPT = frozenset({"build", "bake", "ship"})
_SETTING = "SHIPLINE_HISTORY"
_MOST_RUNS, _MOST_BYTES = 500, 500_000_000


class Observed(Struct, frozen=True):
    """The open root span of a run, with the identifier that history and `shipline runs` share."""

    step: Step
    stream: Stream
    run: str
    keep: Callable[[Mapping[Descriptor, bytes]], object]
    """Keeps documents of the images that it made."""


@contextmanager
def observed(
    kind: str,
    name: str,
    *,
    sinks: Sequence[Sink] = (),
    facts: Mapping[str, Attribute] | None = None,
    run: str = "",
    follows: str = "",
) -> Iterator[Observed]:
    """A run of `kind`: its events go to `sinks`, to the history and to telemetry.

    `facts` are attributes of the root span, and so are those that the work notes on it at the end:
    fields of RunSummary, and others that pages and traces show. `run` is the identifier, by default
    a new one; `follows` is the traceparent of what it goes on with, if the environment has none.
    How it ended follows from what leaves the block. A sink that fails is a warning.
    """
    from shipline.history import RunHistory  # slow to import

    history = RunHistory(state_directory())
    run = run or history.new_id()
    trace = begin_trace(os.environ, follows)
    recorder = _recorder(history, run, kind, name, trace)
    kept = () if recorder is None else (recorder,)
    stream = Stream(
        *sinks,
        *kept,
        *open_telemetry(
            os.environ,
            trace,
            directory=state_directory(),
            run=run,
            kind=kind,
            pipeline=name,
            warn=_telemetry_warning,
        ),
        trace=trace,
    )
    try:
        with stream, stream.step(kind, **(facts or {})) as step:
            yield Observed(step, stream, run, recorder.keep if recorder else lambda found: None)
    except ShiplineError as error:
        error.run = run if recorder is not None else ""
        error.trace = trace.trace_id if trace is not None else ""
        raise
    finally:
        for failure in stream.failures:
            if isinstance(failure, ShiplineError):
                _telemetry_warning(failure.message, failure.hint)
            else:
                click.echo(f"warning: the progress display failed: {failure!r}", err=True)
        if recorder is not None and recorder.failure is not None:
            _warn(recorder.failure)
        elif recorder is not None:
            history.keep_within(_limit(), _MOST_BYTES, run)


def build_name(request: BuildRequest) -> str:
    """How buildx names a build: its context, with the Dockerfile if that has another name, and the
    target. Source: docker/buildx, build/utils.go (BuildName).
    """
    if name := request.build_args.get("BUILDKIT_BUILD_NAME"):
        return name
    context = request.context
    if context.is_local:
        place = Path(context.location).absolute()
        file = Path(request.dockerfile or "Dockerfile")
        path = place if request.dockerfile in (None, "-") else Path(file.absolute())
        if path.name == "Dockerfile":
            path = path.parent
        inside = path != place and path.is_relative_to(place)
        names = path.relative_to(place.parent) if inside else Path(path.name)
        if path != place and not inside and path.suffix:
            names = Path(path.parent.name, path.name)
        found = names.as_posix()
    else:
        found = _place(request)
    target = request.target or ""
    return f"{found} ({target})" if found and target else found or target


def build_facts(*requests: BuildRequest) -> dict[str, Attribute]:
    """What the record of builds says of them at their start."""
    first = requests[0]
    platforms = dict.fromkeys(str(one) for each in requests for one in each.target_platforms)
    facts: dict[str, Attribute] = {
        "root": _place(first),
        "commit": first.vcs.get("revision", "").removesuffix("-dirty"),
        "dirty": first.vcs.get("revision", "").endswith("-dirty"),
        "source": first.vcs.get("source", ""),
        "platforms": " ".join(platforms),
        "dockerfile": without_logins(first.dockerfile or "Dockerfile"),
        "target": first.target or "",
    }
    return {name: one for name, one in facts.items() if one}


def image_facts(*found: Mapping[str, Any]) -> dict[str, Attribute]:
    """What the record of builds says of their results, whose metadata is given."""
    names = [name for one in found for name in str(one.get("image.name", "")).split(",")]
    facts = {"names": " ".join(filter(None, names))}
    if len(found) == 1:
        facts["digest"] = str(found[0].get("containerimage.digest", ""))
        facts["ref"] = str(found[0].get("buildx.build.ref", ""))
    return {name: one for name, one in facts.items() if one}


def size_facts(*made: BuildResult) -> dict[str, Attribute]:
    """The sizes of built images in bytes: `stored`, with shared layers counted once, and of a
    single result that of each platform.
    """
    layers = {
        one.digest: one.size
        for each in made
        for image in each.images
        for one in image.manifest.layers
    }
    facts: dict[str, Attribute] = {"stored": sum(layers.values())}
    if len(made) == 1:
        facts["sizes"] = " ".join(
            f"{image.platform}={sum(one.size for one in image.manifest.layers)}"
            for image in made[0].images
        )
    return facts


def _place(request: BuildRequest) -> str:
    """Where the files of a build are, without a login."""
    context = request.context
    if context.is_local:
        return str(Path(context.location).resolve())
    return without_logins(context.location) or "-"


def _telemetry_warning(message: str, hint: str) -> None:
    click.echo(f"warning: telemetry: {message}{hint and f' ({hint})'}", err=True)


def _recorder(
    history: RunHistory, run: str, kind: str, name: str, trace: Trace | None
) -> RunRecorder | None:
    if kind not in _KEPT or os.environ.get(_SETTING, "") == "off":
        return None
    from shipline.history import RunRecorder, RunSummary

    try:
        return RunRecorder(
            history.directory(run),
            RunSummary(
                run, kind, as_unicode(name), history.clock(), trace=trace.trace_id if trace else ""
            ),
        )
    except OSError as error:
        _warn(error)
        return None


def _limit() -> int:
    """How many runs are kept: the number in SHIPLINE_HISTORY. Raises nothing: the run has ended."""
    text = os.environ.get(_SETTING, "")
    return int(text) if text.isdecimal() and int(text) else _MOST_RUNS


def _warn(error: OSError) -> None:
    click.echo(f"warning: the run cannot be kept in the history: {error}", err=True)
