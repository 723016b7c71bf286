"""`shipline doctor`: what this machine, its registries and a project lack, with the cures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shipline.cli.environment import host_of, registry_options

if TYPE_CHECKING:
    from shipline.config import Config
    from shipline.doctor import Diagnosis, Examination
    from shipline.oci import Reference

_MARKS = {"ok": "ok", "remark": "!", "failed": "FAILED"}
_NAME = 18  # columns


@click.command("doctor")
@click.argument("places", nargs=-1, metavar="[REGISTRY|REPOSITORY]...")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@registry_options
def command(places: Sequence[str], as_json: bool) -> int:
    """Examine this machine, registries, and the project in this directory.

    Registries are those of shipline.yaml unless some are named. Pushing is tried with an upload
    that is cancelled; nothing is stored. Exits with the code of commands that will fail for the
    first reason found, 0 if there is none.
    """
    from shipline.cli.engine import enter
    from shipline.doctor import diagnose

    enter()
    found: list[Diagnosis] = []
    for examination in _examinations(places):
        diagnosis = diagnose(examination)
        if diagnosis is not None and not as_json:
            _show(diagnosis, found[-1].area if found else "")
        found += [diagnosis] if diagnosis is not None else []
    if as_json:
        click.echo(json.dumps([_document(one) for one in found], indent=2))
    else:
        _summarize(found)
    return next((one.exit_code for one in found if one.exit_code), 0)


def _examinations(places: Sequence[str]) -> Iterator[Examination]:
    from shipline.doctor import examine_machine, examine_project, examine_registry, registries_of
    from shipline.errors import ConfigError
    from shipline.home import state_directory
    from shipline.registry import Client, keychain_from, settings_from

    yield from examine_machine(os.environ, state_directory())
    load = cache(_load)
    yield from examine_project(load, Path.cwd(), os.environ)
    keychain = keychain_from(os.environ)
    try:
        registries = _named(places) or registries_of(load())
    except ConfigError:  # an examination of the project said so
        return
    with Client(settings_from(os.environ), keychain, tries=2) as client:
        for host, repositories in registries.items():
            yield from examine_registry(client, keychain, host, repositories)


def _load() -> Config:
    from shipline.config import load

    return load(None, Path.cwd(), os.environ)


def _named(places: Sequence[str]) -> dict[str, list[Reference]]:
    """The registries of the command line, and the repositories named of each."""
    from shipline.oci import Reference

    found: dict[str, list[Reference]] = {}
    for place in places:
        if "/" in place.partition("://")[2] or ("/" in place and "://" not in place):
            reference = Reference.parse(place)
            found.setdefault(reference.host, []).append(reference)
        else:
            found.setdefault(host_of(place), [])
    return found


def _show(diagnosis: Diagnosis, area: str) -> None:
    from shipline.observe import clean

    blank = "\n" if area else ""
    if diagnosis.area != area:
        click.echo(f"{blank}{diagnosis.area}")
    first, *others = [clean(line) for line in diagnosis.detail.splitlines()]
    mark = _MARKS[diagnosis.condition.value]
    click.echo(f"  {mark:<6} {diagnosis.name:<{_NAME}} {first}")
    indent = " " * (_NAME + 10)
    for line in others:
        click.echo(f"{indent}{line.strip()}")
    if diagnosis.cure:
        click.echo(f"{indent}fix: {clean(diagnosis.cure)}")


def _summarize(found: Sequence[Diagnosis]) -> None:
    from shipline.doctor import Condition

    failed = [f"{one.area}: {one.name}" for one in found if one.condition is Condition.FAILED]
    remarks = sum(one.condition is Condition.REMARK for one in found)
    words = f"failed: {'; '.join(failed)}" if failed else "nothing failed"
    click.echo(f"\n{words}" + (f"; {remarks} could be better" if remarks else ""))


def _document(diagnosis: Diagnosis) -> dict[str, object]:
    names = ("area", "name", "condition", "detail", "cure", "exit_code")
    return {name: getattr(diagnosis, name) for name in names}
