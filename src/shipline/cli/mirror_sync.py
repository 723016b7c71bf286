"""`shipline mirror sync`: copies tags between registries as a plan says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shipline.cli.environment import registry_options
from shipline.errors import MissingFlag
from shipline.units import counted, shown_size

if TYPE_CHECKING:
    from shipline.regions import Comparison
    from shipline.regions.mirror import MirrorFailure


@click.command("sync")
@click.argument("plan", type=click.Path(path_type=Path), metavar="PLAN.yaml")
@click.option("--dry-run", is_flag=True, help="Show what would be copied, and copy nothing.")
@click.option("--check", is_flag=True, help="Like --dry-run; exits with 15 if anything differs.")
@click.option(
    "--lock",
    "lock_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the digest of each tag at its source to this file.",
)
@click.option(
    "--locked",
    is_flag=True,
    help="Copy the digests in the lock file; exits with 15 if a tag points elsewhere now.",
)
@registry_options
def sync(plan: Path, dry_run: bool, check: bool, lock_file: Path | None, locked: bool) -> None:
    """Copy tags with their images and statements between registries, as PLAN.yaml says.

    What cannot be copied holds up nothing else; the exit status is then that of the first failure.
    """
    from shipline.api import open_client
    from shipline.cli.observing import observed
    from shipline.config import load_document
    from shipline.regions import (
        MirrorDiffers,
        MirrorPlan,
        compare,
        read_lock,
        synchronise,
        write_lock,
    )

    if locked and lock_file is None:
        raise MissingFlag("--locked needs a lock file", hint="add --lock FILE")
    document = load_document(MirrorPlan, plan, os.environ)
    lock = {} if lock_file is None else read_lock(lock_file, required=locked)
    with observed("mirror", str(plan)), open_client() as client:
        found = compare(client, document, lock, keep=locked, measure=dry_run or check)
        for name in found.moved:
            click.echo(f"moved since it was locked: {name}", err=True)
        for name in () if found.failures else found.unmatched:
            click.echo(f"warning: {name} has no tag that the plan names", err=True)
        if dry_run or check:
            failures = found.failures
            _show(found)
        else:
            failures = (*found.failures, *synchronise(found, document))
            _summarise(found, failures)
            if lock_file is not None and not locked:
                write_lock(lock_file, {**lock, **found.seen})
    for failure in failures if len(failures) > 1 else ():
        click.echo(f"{failure.what}: {failure.error.message}", err=True)
    if failures:
        if len(failures) == 1:
            failures[0].error.add_note(failures[0].what)
        raise failures[0].error
    if check and found.differing:
        raise MirrorDiffers(f"{counted(len(found.differing), 'tag')} would be copied")
    if locked and found.moved:
        raise MirrorDiffers(
            f"{counted(len(found.moved), 'tag')} moved since the lock file was written",
            hint="look at them, and run it without --locked to take them",
        )


def _show(found: Comparison) -> None:
    for one in found.differing:
        was = f", replaces {one.before}" if one.before else ""
        size = f"{shown_size(one.bytes)} in {counted(one.objects, 'object')}"
        click.echo(f"{one}  {one.root.digest}  {size}{was}")
    total = sum(one.bytes for one in found.differing)
    click.echo(
        f"{counted(len(found.differing), 'tag')} to copy, {shown_size(total)} at most; "
        f"{len(found.tags) - len(found.differing)} unchanged",
        err=True,
    )


def _summarise(found: Comparison, failures: tuple[MirrorFailure, ...]) -> None:
    failed = {failure.what for failure in failures}
    copied = [one for one in found.differing if str(one) not in failed]
    for one in copied:
        click.echo(f"{one}  {one.root.digest}")
    click.echo(
        f"copied {counted(len(copied), 'tag')}; "
        f"{len(found.tags) - len(found.differing)} unchanged, {len(failures)} failed",
        err=True,
    )
