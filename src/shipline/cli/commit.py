"""The options that select a commit, and the query they make."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from shipline.cli.options import CONFIGURATION, DIRECTORY
from shipline.errors import ConfigError, UsageError
from shipline.git import Git
from shipline.tags import Event, TagsSection, event_from
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.config import Config
    from shipline.tags import Decision

_PAYLOAD_LIMIT = 16 << 20  # bytes
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class CommitQuery:
    """A repository, its tag policy, the event that is decided for, and the current Unix time.

    `fetch`: whether missing commits and tags may be fetched; `ask_remote`: whether the remote may
    be asked for its tags. `config` is None without a configuration file.
    """

    git: Git
    section: TagsSection
    event: Event
    fetch: bool
    now: int
    ask_remote: bool = True
    image: str = ""
    config: Config | None = None


_SHORT_SHA = "DOCKER_METADATA_SHORT_SHA_LENGTH"


def expected_decision(query: CommitQuery) -> Decision:
    """The decision for the commit; warns if it is based on this clone alone."""
    from shipline.tags import expected_decision

    expected = expected_decision(
        query.git,
        query.section,
        query.event,
        fetch=query.fetch,
        ask_remote=query.ask_remote,
        now=query.now,
    )
    if expected.doubt:
        click.echo(f"warning: {expected.doubt}", err=True)
    return expected.decision


def commit_options(command: F) -> F:
    """Add the options; the command gets one argument `query` in place of them."""

    @wraps(command)
    def called(
        directory: Path,
        path: Path | None,
        ref: str,
        event: str,
        pr: str,
        fetch: bool | None,
        **others: Any,
    ) -> Any:
        event_option = Event.of(ref, event, pr) if ref or event or pr else None
        return command(query=_query(directory, path, event_option, fetch), **others)

    for option in reversed(_OPTIONS):
        called = option(called)
    return cast(F, called)


def project_options(command: F) -> F:
    """Add the options that select a project; the command gets one argument `query` in place."""

    @wraps(command)
    def called(directory: Path, path: Path | None, **others: Any) -> Any:
        return command(query=_query(directory, path, None, None), **others)

    return cast(F, DIRECTORY(CONFIGURATION(called)))


_OPTIONS = (
    DIRECTORY,
    CONFIGURATION,
    click.option(
        "--ref",
        default="",
        metavar="REF",
        help="The branch, tag or pull request; by default from CI, or the current branch.",
    ),
    click.option(
        "--event",
        default="",
        metavar="KIND",
        help="push, tag, pull-request or schedule; by default from CI.",
    ),
    click.option("--pr", default="", metavar="NUMBER", help="The number of the pull request."),
    click.option(
        "--fetch/--no-fetch",
        default=None,
        help="Fetch missing tags and history for versions; by default only in CI. --no-fetch "
        "does not ask the remote for its tags either.",
    ),
)


def _query(
    directory: Path, path: Path | None, event_option: Event | None, fetch: bool | None
) -> CommitQuery:
    from shipline.config import find, load

    environ = os.environ
    detected = event_from(environ, _payload(environ))
    event = replace(
        detected if event_option is None else _override(event_option, detected),
        short_sha=_short_sha(environ),
    )
    section, image, config = TagsSection(), "", None
    if path is not None or find(directory.absolute()) is not None:
        config = load(path, directory.absolute(), environ)
        section = config.tags or section
        image = str(config.pipeline.image or "")
    ask_remote = fetch is not False
    fetch = detected.ci if fetch is None else fetch
    git = Git(directory, environ)
    return CommitQuery(git, section, event, fetch, _now(environ), ask_remote, image, config)


def _override(event_option: Event, detected: Event) -> Event:
    """The event of the command line, completed with what CI reports about the repository."""
    ref = event_option.ref or detected.ref
    same = detected.kind == event_option.kind and ref == detected.ref
    return replace(
        detected if same else event_option,
        kind=event_option.kind,
        ref=ref,
        number=event_option.number or (detected.number if same else ""),
        source=event_option.source,
        default_branch=detected.default_branch,
        title=detected.title,
        description=detected.description,
        url=detected.url,
        licenses=detected.licenses,
    )


def _payload(environ: Mapping[str, str]) -> Mapping[str, Any]:
    place = environ.get("GITHUB_EVENT_PATH", "")
    if not place or not environ.get("GITHUB_ACTIONS"):
        return {}
    try:
        with open(place, "rb") as file:
            document = json.loads(file.read(_PAYLOAD_LIMIT))
    except OSError:
        return {}
    except ValueError:
        raise ConfigError(f"GITHUB_EVENT_PATH: {place} is not JSON", code="ci-event") from None
    return document if isinstance(document, dict) else {}


def _short_sha(environ: Mapping[str, str]) -> int:
    """The digits of a short sha, from docker/metadata-action's variable. Raises UsageError."""
    digits = environ.get(_SHORT_SHA, "") or "7"
    if not (digits.isdecimal() and 0 < int(digits) <= 64):
        raise UsageError(
            f"{_SHORT_SHA} must be a number from 1 to 64: {digits!r}", code="variable-value"
        )
    return int(digits)


def _now(environ: Mapping[str, str]) -> int:
    epoch = environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not epoch.isdecimal():
        raise UsageError(
            f"SOURCE_DATE_EPOCH is not a number of seconds: {epoch!r}", code="variable-value"
        )
    return int(epoch) if epoch else int(time.time())
