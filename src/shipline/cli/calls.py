"""`shipline build --call`: the build checks, what a target takes, and the targets of a Dockerfile.

Text and JSON are those of `docker buildx build --call`; the JSON of sources has no `definition`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import click
from msgspec import Struct

from shipline import dockerfile as df
from shipline.build import BuildRequest, CheckResult
from shipline.cli import engine
from shipline.cli.failures import ProgramSettings, report
from shipline.cli.interrupts import run_in_step
from shipline.cli.tables import columns
from shipline.cli.template import go_json
from shipline.errors import BuilderError, ShiplineError, Span
from shipline.events import Sink, Stream

_VERSION = "1.0.0"  # of the methods and their answers


def call(
    request: BuildRequest, sinks: Iterable[Sink], settings: ProgramSettings, builder: str = ""
) -> int:
    """Print the answer to --call, that of this process or of a `builder`; returns the exit status.

    That of the checks is 1 for warnings for any platform, unless those are to be ignored, and for a
    build that would fail before its first step. Raises UsageError where there is no Dockerfile, and
    what else the answer needs and is wrong.
    """
    if builder and not _is_shipline(builder):
        text, status = _answer_of(builder, request, sinks)
        click.echo(text, nl=False)
        return status
    if request.call.method == DESCRIBE:
        click.echo(_described(as_json=request.call.json))
        return 0
    found = answer(request, sinks)
    _write(request, found.facts)
    click.echo(found.text, nl=False)
    if found.failure is not None:
        report(found.failure, settings)
    return found.status


class Answer(Struct, frozen=True):
    """The text of an answer, the exit status, and the error that would stop a build; `facts` are
    the metadata that buildx writes.
    """

    text: str
    status: int
    facts: Mapping[str, Any]
    failure: ShiplineError | None = None


def answer(request: BuildRequest, sinks: Iterable[Sink]) -> Answer:
    """The answer of this process to --call."""
    with Stream(*sinks) as stream, stream.step(request.call.method) as step:
        found = run_in_step(lambda: engine.call(request, step), step)
    if not isinstance(found, CheckResult):
        document, text = _shown(found, as_json=True), _shown(found, as_json=False)
        shown = f"{document}\n" if request.call.json else text
        return Answer(shown, 0, _facts(document, text))
    document, text = _as_json(found), _as_text(found)
    failed = found.failure is not None
    status = int((bool(found.warnings) and not request.call.ignore_status) or failed)
    shown = document if request.call.json else text
    facts = _facts(document, f"{text}\n".partition("\n")[2])
    facts["result.statuscode"] = str(int(bool(found.warnings) or failed))
    return Answer(f"{shown}\n" if shown else "", status, facts, found.failure)


def _facts(document: str, text: str) -> dict[str, Any]:
    return {"result.json": json.loads(document), "result.txt": text, "version": _VERSION}


def _write(request: BuildRequest, facts: Mapping[str, Any]) -> None:
    """Write --metadata-file."""
    if request.metadata_file is not None:
        from shipline.cli.results import write_metadata

        write_metadata(request.metadata_file, facts)


def _is_shipline(builder: str) -> bool:
    """Whether the frontend of a builder is that of this process."""
    from shipline.cli.builders import find_builder

    return find_builder(builder).driver == "ssh"


def _answer_of(builder: str, request: BuildRequest, sinks: Iterable[Sink]) -> tuple[str, int]:
    """As `answer`, of the frontend that the builder has."""
    from shipline.build.locating import dockerfile_path
    from shipline.cli.builders import call_on_builder

    with Stream(*sinks) as stream, stream.step(request.call.method) as step:
        found = run_in_step(lambda: call_on_builder(builder, request, step), step)
    document = found.get("result.json", b"").decode(errors="replace")
    text = found.get("result.txt", b"").decode(errors="replace")
    try:
        facts = json.loads(document)
    except ValueError:
        facts = None
    if not isinstance(facts, (dict, list)):
        raise BuilderError(
            f"{builder} has no answer to --call={request.call.method}", code="builder-incapable"
        )
    told = {key: value.decode(errors="replace") for key, value in found.items()}
    _write(request, {**told, "result.json": facts})
    if request.call.method != "check" or not isinstance(facts, dict):
        return (f"{document}\n" if request.call.json else text), 0
    count, failed = len(facts.get("warnings") or ()), bool(facts.get("buildError"))
    bad = failed or (bool(count) and not request.call.ignore_status)
    if request.call.json:
        return f"{document}\n", int(bad)
    if path := dockerfile_path(request):  # the builder knows its name alone
        text = text.replace(f"\n{path.name}:", f"\n{path}:")
    return f"{_checked_line(count)}\n{text}" if count or not failed else text, int(bad)


def _checked_line(count: int) -> str:
    if not count:
        return "Check complete, no warnings found."
    found = "1 warning has" if count == 1 else f"{count} warnings have"
    return f"Check complete, {found} been found!"


def _shown(answer: df.Outline | df.Dockerfile, *, as_json: bool) -> str:
    if isinstance(answer, df.Outline):
        return go_json(_outline_json(answer)) if as_json else _outline_text(answer)
    return go_json(_targets_json(answer)) if as_json else _targets_text(answer)


def _as_text(result: CheckResult) -> str:
    from shipline.observe import source_of_buildx

    blocks = [
        "\n".join(
            [
                f"WARNING: {warning.rule} - {df.rule_url(warning.rule)}",
                warning.message,
                *source_of_buildx(warning.span),
            ]
        )
        for warning in result.warnings
    ]
    if not blocks:
        return "" if result.failure else _checked_line(0)
    text = "\n\n".join([_checked_line(len(blocks)), *blocks])
    return text + "\n" * (result.failure is not None)


def _as_json(result: CheckResult) -> str:
    document: dict[str, Any] = {"warnings": [*map(_entry, result.warnings)] or None}
    if result.source is not None:
        document["sources"] = [
            {
                "filename": PurePath(result.source.file).name,
                "data": _encoded(result.source),
                "language": "Dockerfile",
            }
        ]
    if result.failure is not None:
        document["buildError"] = _build_error(result.failure)
    return go_json(document)


def _build_error(failure: ShiplineError) -> dict[str, Any]:
    return {"message": failure.message, "location": _location(failure.span)}


def _location(span: Span | None) -> dict[str, Any]:
    """A range for each line, as in buildx."""
    if span is None:
        return {}
    lines = range(span.line, span.end + 1)
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}} for line in lines]}


def _entry(warning: df.LintWarning) -> dict[str, Any]:
    return {
        "ruleName": warning.rule,
        "description": df.DESCRIPTIONS[warning.rule],
        "url": df.rule_url(warning.rule),
        "detail": warning.message,
        "location": _location(warning.span),
    }


_TARGET = "target"
DESCRIBE = "subrequests.describe"
_METHODS = (
    ("outline", "List all parameters current build target supports", (_TARGET,)),
    ("targets", "List all targets current build supports", ()),
    (DESCRIBE, "List available subrequest types", None),
)
"""The methods that BuildKit's frontend describes, with what they take."""


def _described(*, as_json: bool) -> str:
    if not as_json:
        head = ("NAME", "VERSION", "DESCRIPTION")
        rows = [head, *((name, _VERSION, text) for name, text, _ in _METHODS)]
        return columns(rows, 1).removesuffix("\n")
    return go_json(
        [
            {
                "name": f"frontend.{name}",
                "version": _VERSION,
                "type": "rpc",
                "description": text,
                "opts": None
                if options is None
                else [{"name": one, "description": "Target build stage"} for one in options],
                "inputs": None,
                "metadata": [
                    {"name": f"result.{kind}", "description": ""} for kind in ("json", "txt")
                ],
                "refs": None,
            }
            for name, text, options in _METHODS
        ]
    )


def _outline_text(outline: df.Outline) -> str:
    blocks = []
    name, text = outline.target.name, _stage_description(outline.target)
    if name or text:
        rows = [("TARGET:", name or "(default)"), *([("DESCRIPTION:", text)] if text else ())]
        blocks.append(columns(rows, 1))
    if outline.args:
        head = ("BUILD ARG", "VALUE", "DESCRIPTION")
        rows = [(one.name, one.value, one.description) for one in outline.args]
        blocks.append(columns([head, *rows], 3))
    for title, mounts in (("SECRET", outline.secrets), ("SSH", outline.agents)):
        if mounts:
            rows = [(one.name, "true" if one.required else "") for one in mounts]
            blocks.append(columns([(title, "REQUIRED"), *rows], 3))
    return "".join(f"{block}\n" for block in blocks)


def _outline_json(outline: df.Outline) -> dict[str, Any]:
    return _without_empty(
        {
            "name": outline.target.name,
            "description": _stage_description(outline.target),
            "args": [
                _without_empty(
                    {
                        "name": one.name,
                        "description": one.description,
                        "value": one.value,
                        "location": _location(one.span),
                    }
                )
                for one in outline.args
            ],
            "secrets": _mounts_json(outline.secrets),
            "ssh": _mounts_json(outline.agents),
            "sources": [_encoded(outline.target.span)],
        }
    )


def _mounts_json(mounts: Iterable[df.OutlineMount]) -> list[dict[str, Any]]:
    return [
        _without_empty(
            {"name": one.name, "required": one.required, "location": _location(one.span)}
        )
        for one in mounts
    ]


def _stage_description(stage: df.Stage) -> str:
    return df.description(stage.opening, stage.name)


def _targets_text(dockerfile: df.Dockerfile) -> str:
    rows = [("TARGET", "DESCRIPTION")]
    for stage in dockerfile.stages:
        words = [stage.name, *(["(default)"] if stage is dockerfile.stages[-1] else [])]
        rows.append((" ".join(filter(None, words)), _stage_description(stage)))
    return columns(rows, 1)


def _targets_json(dockerfile: df.Dockerfile) -> dict[str, Any]:
    targets = [
        _without_empty(
            {
                "name": stage.name,
                "default": stage is dockerfile.stages[-1],
                "description": _stage_description(stage),
                "base": stage.base,
                "platform": stage.platform,
                "location": _location(stage.span),
            }
        )
        for stage in dockerfile.stages
    ]
    return {"targets": targets, "sources": [_encoded(dockerfile.stages[0].span)]}


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _encoded(span: Span) -> str:
    """The whole file of `span`, in base64."""
    return base64.b64encode(span.source.encode("utf-8", "surrogateescape")).decode()
