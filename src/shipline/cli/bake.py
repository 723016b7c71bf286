"""`shipline bake`: build the targets of definition files, several at once.

Flags, files and variables of the environment are those of `docker buildx bake`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shipline.build import (
    BuildRequest,
    Call,
    Context,
    ContextKind,
    check_request,
    in_target,
    linked_targets,
    parse_attributes,
    parse_boolean,
    parse_call,
    split_csv,
)
from shipline.build.metadata import result_facts
from shipline.builders.instances import other_builder
from shipline.cli import engine
from shipline.cli.build import builder_facts, completed, loaded_for_docker, note_native_build, shown
from shipline.cli.build_options import SwitchCommand
from shipline.cli.entry import is_buildx
from shipline.cli.environment import registry_options
from shipline.cli.failures import ProgramSettings
from shipline.cli.observing import Observed, build_facts, image_facts, size_facts
from shipline.cli.options import BUILDER, PROGRESS
from shipline.cli.results import (
    REPORTED,
    response_facts,
    show_outcome,
    warning_facts,
    write_metadata,
)
from shipline.cli.template import go_json
from shipline.errors import FlagConflict, InvalidFlag, UsageError
from shipline.events import Attribute, Step
from shipline.observe import clean, open_sinks
from shipline.oci import Platform
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.bake import DefinitionFile, Definitions, SelectedTargets, VariableInfo
    from shipline.build import BuildResult
    from shipline.cli.calls import Answer

T = TypeVar("T")
_FILES, _SEPARATOR = "BUILDX_BAKE_FILE", "BUILDX_BAKE_PATH_SEPARATOR"
_CHECK_FILES, _ALLOW_FILES = "BUILDX_BAKE_ENTITLEMENTS_FS", "BAKE_ALLOW_REMOTE_FS_ACCESS"
_TAB = 8  # columns
_REFERENCE = "buildx.build.ref"
_RELATIVE = "BUILDX_BAKE_FILE_RELATIVE_PATHS"


@click.command("bake", cls=SwitchCommand)
@click.option("-f", "--file", "files", multiple=True, metavar="PATH", help="A definition file.")
@click.option("--set", "sets", multiple=True, metavar="TARGET.KEY=VALUE", help="Change a target.")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
@click.option("--allow", multiple=True, metavar="WHAT", help="Allow network.host, ssh, fs=PATH, ..")
@click.option("--print", "print_", is_flag=True, help="Print the targets and build nothing.")
@click.option("--list", "list_", metavar="WHAT", help="List targets or variables.")
@click.option("--list-targets", is_flag=True, hidden=True)
@click.option("--list-variables", is_flag=True, hidden=True)
@click.option("--call", default="build", metavar="METHOD", help="build, check, outline or targets.")
@click.option("--check", is_flag=True, help="Check the Dockerfiles: --call=check.")
@click.option("--no-cache", is_flag=True, default=None, help="Use no results of earlier builds.")
@click.option("--pull", is_flag=True, default=None, help="Ask for newer base images.")
@click.option("--load", is_flag=True, help="Load the images into the local engine.")
@click.option("--push", is_flag=True, help="Push the images.")
@click.option("--provenance", metavar="BOOL|K=V", help="--set=*.attest=type=provenance")
@click.option("--sbom", metavar="BOOL|K=V", help="--set=*.attest=type=sbom")
@click.option("--policy", multiple=True, metavar="K=V", help="A policy in Rego for all targets.")
@click.option("--metadata-file", metavar="PATH", help="Write metadata of the results, as JSON.")
@BUILDER
@PROGRESS
@registry_options
@click.argument("targets", nargs=-1, metavar="[URL] [TARGET]...")
@click.pass_obj
def command(
    settings: ProgramSettings,
    /,
    targets: tuple[str, ...],
    files: tuple[str, ...],
    sets: tuple[str, ...],
    variables: tuple[str, ...],
    allow: tuple[str, ...],
    print_: bool,
    list_: str | None,
    list_targets: bool,
    list_variables: bool,
    progress: str,
    builder: str | None,
    metadata_file: str | None,
    **flags: Any,
) -> int:
    """Build the targets of a bake definition or a compose file.

    Without -f these are docker-bake.hcl, docker-bake.json, their overrides, and compose files of
    this directory; without TARGET the group or target `default`.
    """
    from shipline.bake import parse_permissions, place_at, prepare, select

    settings.json_lines, settings.repeated = progress == "rawjson", True
    list_ = list_ or ("targets" if list_targets else "variables" if list_variables else None)
    if print_ and list_:
        raise FlagConflict("--print and --list exclude each other")
    wanted = parse_list(list_) if list_ else None
    flags["call"] = parse_call("check" if flags.pop("check") else flags["call"])
    permissions = parse_permissions(allow)
    environ = os.environ
    url, command_context, names = split_arguments(targets)
    with ExitStack() as stack:
        directory = stack.enter_context(_fetched(url, progress)) if url else None
        read = _read(files or _files_of(environ), directory, url)
        config = _config(read, variables, command_context, environ)
        for warning in config.warnings:
            click.echo(f"warning: {clean(warning)}", err=True)
        if wanted:
            click.echo(_listed(config, *wanted), nl=False)
            return 0
        selection = select(config, names or ("default",), (*sets, *overrides_of(flags)), environ)
        prepare(selection, environ, remote=bool(url))
        if print_:
            click.echo(go_json(selection.to_json()))
            return 0
        if tree := directory and _tree(directory):
            place_at(selection, url, tree)
        _ask(selection, permissions, environ, remote=bool(url))
        requests = requests_of(selection, environ, metadata_file)
        if not requests:  # no error, as in buildx
            click.echo(
                "warning: there is nothing to build: no target is in the definition", err=True
            )
            return 0
        if any(one.call.method != "build" for one in requests.values()):
            return _call(selection, requests, flags["call"], progress, settings, metadata_file)
        shown_files = [] if url else read
        origin = "" if files or not _files_of(environ) else f" from {_FILES} env"
        told = partial(_tell_files, shown_files, origin)
        return _build(requests, progress, metadata_file, other_builder(builder, environ), told)


def split_arguments(words: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """The URL of remote definitions, the context of the command, and the targets."""
    from shipline.bake import CWD, is_remote

    url, context, rest = "", CWD, list(words)
    if rest and is_remote(rest[0]):
        url = rest.pop(0)
        if rest and is_remote(rest[0]):
            context = rest.pop(0)
    return url, context, tuple(rest)


def overrides_of(flags: Mapping[str, Any]) -> list[str]:
    """What the short flags stand for, as --set has it."""
    found = [f"*.{name}=true" for name in ("load", "push") if flags.get(name)]
    call = flags.get("call")
    if call is not None and call.method != "build":
        found.append(f"*.call={'lint' if call.method == 'check' else call.method}")
    for name in ("no_cache", "pull"):
        if flags.get(name) is not None:
            found.append(f"*.{name.replace('_', '-')}={str(flags[name]).lower()}")
    for kind in ("sbom", "provenance"):
        if value := flags.get(kind):
            found.append(f"*.attest=type={kind},{_attributes(kind, value)}")
    found += [f"*.policy+={one}" for one in flags.get("policy") or ()]
    return found


def _attributes(kind: str, value: str) -> str:
    """`true` and `false` as an attribute; others as they are."""
    try:
        return f"disabled={str(not parse_boolean(value, kind)).lower()}"
    except UsageError:
        return value


# definitions


def _config(
    files: Sequence[DefinitionFile],
    variables: Sequence[str],
    command_context: str,
    environ: Mapping[str, str],
) -> Definitions:
    from shipline.bake import parse_files

    if environ.get(_RELATIVE, "").strip() and parse_boolean(environ[_RELATIVE].strip(), _RELATIVE):
        raise UsageError(
            f"{_RELATIVE} is not supported yet",
            code="flag-not-supported",
            hint="run bake where the paths begin",
        )
    builtin = {"BAKE_CMD_CONTEXT": command_context, "BAKE_LOCAL_PLATFORM": str(Platform.local())}
    return parse_files(files, environ, variables=_variables(variables), builtin=builtin)


def _files_of(environ: Mapping[str, str]) -> list[str]:
    """The files of BUILDX_BAKE_FILE."""
    separator = environ.get(_SEPARATOR) or os.pathsep
    words = (one.strip() for one in environ.get(_FILES, "").split(separator))
    return [one for one in words if one]


def _variables(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in filter(None, texts):
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidFlag(f"--var: {text!r} is not NAME=VALUE")
        found[name] = value
    return found


def _read(files: Sequence[str], directory: Path | None, url: str) -> list[DefinitionFile]:
    """The definition files: those of a remote definition first, `cwd://` ones from here."""
    from shipline.bake import CWD, read_files

    if directory is None:
        return read_files([one.removeprefix(CWD) for one in files], sys.stdin.buffer.read)
    from shipline.bake import BAKE_FILES, COMPOSE_FILES, DefinitionFile

    here = [one.removeprefix(CWD) for one in files if one.startswith(CWD)]
    there = [one for one in files if not one.startswith(CWD)]
    if file := _sole_file(directory):
        name = url.partition("?")[0].rpartition("/")[2] or url
        found = [DefinitionFile(name, file.read_bytes())]
    else:
        known = [*COMPOSE_FILES, *BAKE_FILES]
        wanted = there or [one for one in known if (directory / one).exists()]
        found = [_inside(directory, one) for one in wanted]
    found += read_files(here, sys.stdin.buffer.read) if here else []
    if not found:
        raise UsageError(
            f"couldn't find a bake definition in {url}",
            code="bake-not-found",
            hint="name one with -f",
        )
    return found


def _tree(directory: Path) -> Path | None:
    """The directory, None if it has only the one file that was at the URL."""
    return directory if _sole_file(directory) is None else None


def _sole_file(directory: Path) -> Path | None:
    from shipline.build import CONTEXT_FILE

    return directory / CONTEXT_FILE if os.listdir(directory) == [CONTEXT_FILE] else None


def _inside(directory: Path, name: str) -> DefinitionFile:
    """A file of a remote definition, which cannot be a link to one outside."""
    from shipline.bake import DefinitionFile
    from shipline.errors import SandboxError
    from shipline.sandbox import resolve_in_root

    try:
        return DefinitionFile(name, resolve_in_root(directory, name).read_bytes())
    except (OSError, SandboxError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message
        raise UsageError(
            f"cannot read {name} of the remote definition: {why}", code="bake-unreadable"
        ) from None


@contextmanager
def _fetched(url: str, mode: str) -> Iterator[Path]:
    """A directory with the files of a remote definition."""
    from shipline.bake import git_secrets, git_ssh
    from shipline.build import parse_request

    engine.enter()
    ssh = git_ssh(os.environ)
    request = parse_request(url, os.environ, secret=git_secrets(os.environ), ssh=ssh)
    with ExitStack() as stack:

        def fetch(step: Any) -> Path:
            return Path(stack.enter_context(engine.fetched(request, step)).directory)

        yield shown("load bake definitions", fetch, mode)[0]


# lists


def parse_list(text: str) -> tuple[str, str]:
    """What --list asks for: targets or variables; and the format: table or json."""
    fields = (
        {"type": text}
        if split_csv(text) == (text,) and "=" not in text
        else (parse_attributes(text, "--list"))
    )
    kind, form = fields.pop("type", ""), fields.pop("format", "table")
    fault = ""
    if kind not in ("targets", "variables"):
        fault = f'invalid list type "{kind}"'
    elif form not in ("table", "json"):
        fault = f'invalid list format "{form}"'
    elif fields:
        fault = f"unexpected list key {next(iter(fields))}"
    if fault:
        raise InvalidFlag(
            f"--list: {fault}", hint="write targets, variables, or type=targets,format=json"
        )
    return kind, form


def _listed(config: Definitions, kind: str, form: str) -> str:
    rows = _variable_rows(config.variables) if kind == "variables" else _target_rows(config)
    if form == "json":
        return go_json(rows) + "\n"
    if kind == "variables":
        head: tuple[str, ...] = ("VARIABLE", "TYPE", "VALUE", "DESCRIPTION")
        keys: tuple[str, ...] = ("name", "type", "value", "description")
    else:
        head, keys = ("TARGET", "DESCRIPTION"), ("name", "description")
    absent = {"value": "<null>"}
    cells = [[clean(str(row.get(key, absent.get(key, "")))) for key in keys] for row in rows]
    *columns, last = zip(head, *cells, strict=True)
    padded = [_to_tab_stop(column) for column in columns]
    return "".join("".join(row) + "\n" for row in zip(*padded, last, strict=True))


def _to_tab_stop(column: Sequence[str]) -> list[str]:
    """The cells of a column, each with tabs up to the next column, as Go's tabwriter has them."""
    stops = max(map(len, column)) // _TAB + 1
    return [cell + "\t" * (stops - len(cell) // _TAB) for cell in column]


def _variable_rows(variables: Sequence[VariableInfo]) -> list[dict[str, Any]]:
    rows = []
    for one in sorted(variables, key=lambda one: one.name):
        row = {"name": one.name, "description": one.description, "type": one.type}
        rows.append({key: value for key, value in row.items() if value})
        if one.value is not None:
            rows[-1]["value"] = one.value
    return rows


def _target_rows(config: Definitions) -> list[dict[str, Any]]:
    """Targets and groups, without those whose name begins with an underscore."""
    rows: list[dict[str, Any]] = []
    for name in sorted({*config.targets, *config.groups}):
        if name.startswith("_"):
            continue
        if name in config.targets:
            told = str(config.targets[name].values.get("description") or "")
            rows.append({"name": name, **({"description": told} if told else {})})
        if name in config.groups:
            group = config.groups[name]
            members = ", ".join(sorted(group.targets))
            told = f"{group.description} ({members})" if group.description else members
            rows.append({"name": name, "description": told, "group": True})
    return rows


# permissions


def _ask(
    selection: SelectedTargets, given: Any, environ: Mapping[str, str], *, remote: bool
) -> None:
    """Ask on a terminal for the permissions that are missing. Raises UsageError without them."""
    from shipline.bake import missing_permissions

    checked = True
    if remote and (allowed := environ.get(_ALLOW_FILES, "")):
        checked = not parse_boolean(allowed, _ALLOW_FILES)
    if setting := environ.get(_CHECK_FILES, ""):
        checked = parse_boolean(setting, _CHECK_FILES)
    missing = missing_permissions(selection, given, environ, files=checked)
    if not missing:
        return
    flags = " ".join(f"--allow={one.flag}" for one in missing)
    asked = "".join(f"\n - {clean(one.purpose)}" for one in missing)
    told = "Your build is requesting privileges for following possibly insecure capabilities:"
    told = f"{told}\n{asked}"
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        click.echo(f"{told}\n", err=True)
        click.echo(f"to grant it without this question: {flags}", err=True)
        if click.confirm("grant it and continue?", err=True):
            return
    whose = "a remote definition" if remote else "the targets"
    raise UsageError(
        f"additional privileges requested by {whose}\n{told}",
        code="bake-permission",
        hint=f"grant it with {flags}",
    )


# builds


def requests_of(
    selection: SelectedTargets, environ: Mapping[str, str], metadata_file: str | None
) -> dict[str, BuildRequest]:
    """The requests by the names of their targets. Raises UsageError with the name of a target."""
    from shipline.bake import request_of

    found = {}
    for name, target in selection.targets.items():
        with in_target(name):
            request = request_of(target, environ, metadata_file=metadata_file)
            request = completed(request, str(target.values["context"]), environ)
            check_request(request)
            found[name] = replace(request, metadata_file=None)
    piped = [
        name
        for name, one in found.items()
        if any(output.destination == "-" for output in one.outputs)
    ]
    if len(piped) > 1:
        raise FlagConflict(f"only one target can write to standard output, not {', '.join(piped)}")
    if piped and sys.stdout.isatty():
        raise UsageError(
            f"target {piped[0]}: a tar archive cannot be written to a terminal",
            code="output-terminal",
            hint="redirect standard output, or give dest=FILE",
        )
    return found


def _tell_files(files: Sequence[DefinitionFile], origin: str, step: Step) -> None:
    """Show the files that were read, as buildx does; `origin` says where their names come from."""
    if not files:
        return
    with step.step(f"load local bake definitions{origin}", kind="internal") as loaded:
        for one in files:
            name, size = "from stdin" if one.name == "-" else one.name, len(one.content)
            with loaded.step(f"reading {name}", kind="status", size=size) as reading:
                reading.progress(size, size)


def _build(
    requests: Mapping[str, BuildRequest],
    mode: str,
    metadata_file: str | None,
    builder: str,
    begin: Callable[[Step], None],
) -> int:
    """Build in this process, or on `builder`, after `begin`."""
    named = builder_facts(builder, os.environ)
    if builder:
        from shipline.cli.builders import build_on_builder

        def build_there(step: Step) -> dict[str, dict[str, str]]:
            begin(step)
            return build_on_builder(builder, requests, step)

        found, warned = _shown(requests, build_there, mode, named, _note)
        facts = {name: response_facts(one) for name, one in found.items()}
    else:
        requests = {name: loaded_for_docker(one, os.environ) for name, one in requests.items()}
        engine.enter()

        def build_here(step: Step) -> dict[str, BuildResult]:
            begin(step)
            return engine.start(requests, step)

        made, warned = _shown(requests, build_here, mode, named, _keep)
        facts = {name: result_facts(one) for name, one in made.items()}
        for name, one in made.items():
            note_native_build(requests[name], one, os.environ)
    references = [str(one[_REFERENCE]) for one in facts.values() if _REFERENCE in one]
    if references and (builder or is_buildx()):
        from shipline.builders.history import note_group

        note_group(references, tuple(facts), os.environ)
    if metadata_file:
        write_metadata(Path(metadata_file), {**facts, **warning_facts(warned, os.environ)})
    needed = {name for one in requests.values() for name in linked_targets(one)}
    for name, request in requests.items():
        if mode in REPORTED and not (name in needed and request.is_dropped):
            show_outcome(request, facts[name], f"{name}: ")
    return 0


def _shown(
    requests: Mapping[str, BuildRequest],
    work: Callable[[Step], T],
    mode: str,
    builder: Mapping[str, Attribute],
    ended: Callable[[Observed, T], object],
) -> tuple[T, list[dict[str, Any]]]:
    facts = {**build_facts(*requests.values()), "root": str(Path.cwd()), **builder}
    return shown("bake", work, mode, name=" ".join(requests), facts=facts, ended=ended)


def _note(run: Observed, found: Mapping[str, Mapping[str, str]]) -> None:
    run.step.note(**image_facts(*map(response_facts, found.values())))


def _keep(run: Observed, made: Mapping[str, BuildResult]) -> None:
    run.step.note(**image_facts(*map(result_facts, made.values())), **size_facts(*made.values()))
    run.keep({key: raw for one in made.values() for key, raw in one.documents.items()})


def _answers(
    requests: Mapping[str, BuildRequest], asked: Call, mode: str
) -> Iterator[tuple[str, Answer]]:
    """The answer to --call of each target that has it; other targets are empty contexts."""
    from shipline.cli.calls import answer

    with TemporaryDirectory() as empty:
        for name, request in sorted(requests.items()):
            if request.call.method == "build":
                continue
            call = replace(request.call, json=asked.json, ignore_status=asked.ignore_status)
            contexts = {
                key: Context(ContextKind.LOCAL, empty) if one.kind is ContextKind.TARGET else one
                for key, one in request.build_contexts.items()
            }
            request = replace(request, call=call, build_contexts=contexts)
            yield name, answer(request, open_sinks(mode, sys.stderr, os.environ))


def _call(
    selection: SelectedTargets,
    requests: Mapping[str, BuildRequest],
    asked: Call,
    mode: str,
    settings: ProgramSettings,
    metadata_file: str | None,
) -> int:
    """Answer --call: show each answer as soon as it is there; returns the highest status."""
    from shipline.cli.failures import report

    found: dict[str, Answer] = {}
    for name, one in _answers(requests, asked, mode):
        if not asked.json:
            description = clean(selection.targets[name].values.get("description") or "")
            head = "\n".join(filter(None, (name, description)))
            click.echo(("\n" if found else "") + f"{head}\n\n{one.text}", nl=False)
            if one.failure is not None:
                report(one.failure, settings)
        found[name] = one
    if asked.json:
        groups = {name: one.to_json() for name, one in sorted(selection.groups.items())}
        targets = {
            name: {
                "build": selection.targets[name].to_json(),
                requests[name].call.method: json.loads(one.text),
            }
            for name, one in found.items()
        }
        click.echo(go_json({"group": groups, "target": targets}))
    if metadata_file:
        write_metadata(Path(metadata_file), {name: one.facts for name, one in found.items()})
    return max(one.status for one in found.values())
