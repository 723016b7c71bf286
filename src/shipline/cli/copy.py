"""`shipline copy`: images between registries, layouts, archives and the engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shipline.cli.environment import authfile_option, registry_options
from shipline.errors import FlagConflict, MissingFlag, ShiplineError, UsageError
from shipline.files import reading
from shipline.units import counted, shown_size

if TYPE_CHECKING:
    from shipline.events import Step
    from shipline.images import CopyOptions, Place, Places

_MODES = ("auto", "none", "plain", "quiet", "rawjson", "tty")
F = TypeVar("F", bound=Callable[..., Any])
_STANDARD_OUTPUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_AT_ONCE = 6  # images of a list
_LIST_LIMIT = 64 << 20  # bytes


def _accepted(*names: str) -> Callable[[F], F]:
    """An option of another program for what is always so here."""
    return click.option(*names, is_flag=True, hidden=True, expose_value=False)


_PASSWORDS = (
    *("--src-creds", "--dest-creds", "--src-password", "--dest-password"),
    *("--src-registry-token", "--dest-registry-token", "--from-password", "--to-password"),
)


def _refuse(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise UsageError(
            "a password on the command line is visible to every process",
            code="password-on-command-line",
            hint="store it with `shipline login`, or name a file with --authfile",
        )


def _refused(command: F) -> F:
    """Options of other programs that take a password."""
    for name in _PASSWORDS:
        option = click.option(name, hidden=True, expose_value=False, callback=_refuse)
        command = option(command)
    return command


@click.command("copy")
@click.argument("names", nargs=-1, metavar="SOURCE DESTINATION")
@click.option(
    "-f",
    "--from-file",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Copy the pairs in a file, one `SOURCE DESTINATION` a line; - is standard input.",
)
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH",
    help="Copy these platforms only (default: all); the index is then another one.",
)
@click.option(
    "--multi-arch",
    type=click.Choice(["all", "system"]),
    default="all",
    help="system: the image for --platform alone (default: of this host), without its index.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["oci", "v2s2"]),
    help="Make manifests of OCI or of Docker's schema 2; digests change.",
)
@click.option(
    "--referrers/--no-referrers",
    "-r",
    default=True,
    help="Also copy signatures, attestations and other referrers (default: yes).",
)
@click.option("--remove-signatures", is_flag=True, help="Another name for --no-referrers.")
@click.option(
    "--force",
    is_flag=True,
    help="Look for each blob, also where the tag is the same; replace an archive.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be copied, and copy nothing.")
@click.option(
    "--digestfile",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the digest here; of a list one a line, empty for a failure.",
)
@click.option(
    "-j",
    "--jobs",
    "--concurrency",
    "--image-parallel-copies",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Blobs at once, for each registry.",
)
@click.option(
    "--retry-times",
    type=click.IntRange(0, 100),
    default=4,
    show_default=True,
    help="Tries after the first that fails.",
)
@click.option("--src-tls-verify", type=bool, default=True, help="false: --insecure for the source.")
@click.option(
    "--dest-tls-verify", type=bool, default=True, help="false: --insecure for the destination."
)
@click.option("-q", "--quiet", is_flag=True, help="Another name for --progress=quiet.")
@click.option(
    "--progress",
    type=click.Choice(_MODES),
    default="auto",
    envvar="BUILDKIT_PROGRESS",
    help="How progress is shown.",
)
@_accepted("-a", "--all")
@_accepted("--recursive")
@click.option("--preserve-digests", is_flag=True, hidden=True)
@_refused
@registry_options
@authfile_option
def command(
    names: Sequence[str],
    from_file: str | None,
    platforms: Sequence[str],
    multi_arch: str,
    format_: str | None,
    preserve_digests: bool,
    referrers: bool,
    remove_signatures: bool,
    force: bool,
    dry_run: bool,
    digestfile: Path | None,
    jobs: int,
    retry_times: int,
    src_tls_verify: bool,
    dest_tls_verify: bool,
    quiet: bool,
    progress: str,
) -> None:
    """Copy an image with all its platforms, signatures and attestations, byte for byte.

    \b
    SOURCE and DESTINATION are
      registry.example/app:1.0    or docker://registry.example/app:1.0
      oci:DIR[:TAG]               an image layout
      oci-archive:FILE[:TAG]      an image layout in a tar archive
      docker-archive:FILE[:NAME]  what `docker save` writes
      docker-daemon:NAME          an image in the engine of this machine
      dir:DIR                     a directory of skopeo

    What the destination has is not sent again, and what another repository of its registry has is
    mounted. An interrupted copy is continued by the same command. The tag is written last.
    """
    from shipline.cli.observing import observed
    from shipline.images import CopyOptions, ImageFormat, Places
    from shipline.observe import open_sinks
    from shipline.oci import Platform
    from shipline.registry import Client

    pairs = _pairs(names, from_file)
    _check_targets(pairs)
    insecure = [
        place.reference.host
        for pair in pairs
        for place, verify in zip(pair, (src_tls_verify, dest_tls_verify), strict=True)
        if not verify and place.reference is not None
    ]
    if format_ and preserve_digests:
        raise FlagConflict("--format changes digests, and --preserve-digests forbids it")
    options = CopyOptions(
        tuple(map(Platform.parse, platforms)),
        referrers and not remove_signatures,
        force,
        single=multi_arch == "system",
        format=ImageFormat(format_) if format_ else None,
    )
    with ExitStack() as stack:
        client = stack.enter_context(
            Client.of(os.environ, insecure=insecure, at_once=jobs, tries=retry_times + 1)
        )
        places = Places(stack, client, os.environ)
        if dry_run:
            _show(places, pairs, options)
            return
        sinks = open_sinks("quiet" if quiet else progress, sys.stderr, os.environ)
        with observed("copy", str(pairs[0][1]), sinks=sinks) as run:
            outcomes = _copy_all(places, pairs, options, run.step)
    _report(pairs, outcomes, digestfile)


def _pairs(names: Sequence[str], file: str | None) -> list[_Pair]:
    from shipline.images import parse_place, parse_target

    if file is None:
        if len(names) != 2:
            raise MissingFlag(
                "a copy has a SOURCE and a DESTINATION",
                hint="for several, write `SOURCE DESTINATION` lines into a file: --from-file FILE",
            )
        return [(parse_place(names[0]), parse_target(names[1]))]
    if names:
        raise FlagConflict("--from-file names the images: no others can be given")
    with reading(file, of="--from-file"), click.open_file(file, encoding="utf-8-sig") as lines:
        text = lines.read(_LIST_LIMIT)
    found = list(_lines(text, file))
    if not found:
        raise MissingFlag(f"{file} has no pairs of images")
    return found


def _check_targets(pairs: Iterable[_Pair]) -> None:
    """Raises UsageError for an archive that two copies would write, and for another name that
    would get two images.
    """
    from shipline.images import PlaceKind

    written: set[Path] = set()
    sources: dict[Place, Place] = {}
    for source, target in pairs:
        if (other := sources.setdefault(target, source)) != source:
            raise FlagConflict(
                f"{target} would get two images: {other} and {source}",
                hint="give each a tag of its own, or remove a line",
            )
        if target.kind in (PlaceKind.OCI_ARCHIVE, PlaceKind.DOCKER_ARCHIVE):
            if target.path.absolute() in written:
                raise FlagConflict(
                    f"{target.path} is written twice: an archive gets one image",
                    hint="copy them to one oci:DIR, which has a tag for each",
                )
            written.add(target.path.absolute())


def _lines(text: str, file: str) -> Iterator[_Pair]:
    from shipline.images import parse_place, parse_target

    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words and len(words) != 2:
            raise UsageError(
                f"{file}:{number}: not `SOURCE DESTINATION`: {line.strip()[:200]}", code="copy-list"
            )
        try:
            if words:
                yield parse_place(words[0]), parse_target(words[1])
        except ShiplineError as error:
            raise UsageError(
                f"{file}:{number}: {error.message}", code="copy-list", hint=error.hint
            ) from None


_Pair = tuple["Place", "Place"]
_Outcome = str | ShiplineError
"""The digest of a copy, or why there is none."""


def _copy_all(
    places: Places, pairs: Sequence[_Pair], options: CopyOptions, step: Step
) -> list[_Outcome]:
    """The outcome of each copy, in the order of the pairs; one that fails holds up no other."""
    from shipline.tasks import TaskGroup

    def copy(pair: _Pair) -> _Outcome:
        try:
            return _copy(places, *pair, options, step)
        except ShiplineError as error:
            return error

    with TaskGroup(_AT_ONCE) as group:
        tasks = [group.start(copy, pair) for pair in pairs]
    return [task.result() for task in tasks]


def _copy(places: Places, source: Place, target: Place, options: CopyOptions, parent: Step) -> str:
    with parent.step(f"copy {source} to {target}", kind="copy") as step:
        moved = total = 0

        def expect(size: int) -> None:
            nonlocal total
            total += size

        def advance(size: int) -> None:
            nonlocal moved
            moved += size
            step.progress(moved, max(total, moved))

        image = places.open(source)
        root, copied = places.copy(image, target, options, advance=advance, expect=expect)
        if not copied:
            step.cached()
        return str(root.digest)


def _show(places: Places, pairs: Sequence[_Pair], options: CopyOptions) -> None:
    for source, target in pairs:
        found = places.lacking(places.open(source), target, options)
        size = shown_size(sum(one.size for one in found.objects))
        what = f"{size} in {counted(len(found.objects), 'object')}"
        if not found.changed and not found.objects:
            what = "unchanged"
        click.echo(f"{source} -> {target}  {found.root.digest}  {what}")


def _report(pairs: Sequence[_Pair], outcomes: Sequence[_Outcome], digestfile: Path | None) -> None:
    """Print what the destinations have now. Raises the first failure."""
    digests, failures = [], []
    for (source, target), outcome in zip(pairs, outcomes, strict=True):
        if isinstance(outcome, str):
            by_digest = target.remote is not None and target.remote.digest is not None
            shown = str(target) if by_digest else f"{target}@{outcome}"
            click.echo(shown, err=str(target.path) in _STANDARD_OUTPUT)
            digests.append(outcome)
            continue
        failures.append(outcome)
        digests.append("")
        if len(pairs) > 1:
            click.echo(f"{source} -> {target}: {outcome.message}", err=True)
    if digestfile is not None and any(digests):
        from shipline.cli.results import write_whole

        write_whole(digestfile, "\n".join(digests) if len(pairs) > 1 else digests[0])
    if failures:
        if len(failures) > 1:
            failures[0].add_note(f"{len(failures)} of {len(pairs)} images were not copied")
        raise failures[0]
