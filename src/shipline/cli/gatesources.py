"""What `shipline gate` learns from git and registries about the thing that is judged."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from shipline.cli.gateoptions import Flags
from shipline.errors import ConfigError, GateUndecided, UsageError
from shipline.git import Changes, Git, GitError, changed_lines, resolve
from shipline.policy.gates import SUMMARY_TYPE, Baseline

_BASELINE_LIMIT = 64 << 20  # bytes


def revision_of(git: Git, flags: Flags) -> str:
    """The commit that reports must be about: the one named, else HEAD, else none."""
    if flags.hook == "pre-commit":
        return ""  # the commit is still to be made
    named = flags.revision
    try:
        return resolve(git, named or "HEAD") or named
    except GitError:
        return named


def changes_of(git: Git, flags: Flags) -> Changes | None:
    """The changed lines: since the base that is named, of a hook those that it lets in."""
    if flags.hook == "pre-commit":
        return changed_lines(git, "HEAD", staged=True) if resolve(git, "HEAD") else None
    base = flags.base or flags.merge_check
    if flags.hook == "pre-push" and not base:
        base = next((name for name in ("@{push}", "@{upstream}") if resolve(git, name)), "")
    return changed_lines(git, base, flags.revision or "HEAD") if base else None


def newest_change(git: Git, flags: Flags, changes: Changes | None) -> datetime | None:
    """When what is judged came to be: the commit, in a hook the last of the files that it lets in.
    Older reports did not see it. None where there is no commit.
    """
    if not flags.hook:
        return _committed(git, flags.revision or "HEAD")
    if changes is None:
        return None
    top = Path(git.text("rev-parse", "--show-toplevel"))
    times = [_modified(top / path) for path in changes.lines]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _committed(git: Git, name: str) -> datetime | None:
    try:
        commit = resolve(git, name)
    except GitError:
        return None
    if not commit:
        return None
    seconds = git.text("log", "-1", "--format=%ct", commit)
    return datetime.fromtimestamp(int(seconds), UTC)


def baseline_of(flags: Flags) -> Baseline | None:
    """From a file, or from the signed statement that is attached to an image.

    Raises GateUndecided where no trusted key signed one.
    """
    if flags.baseline is not None:
        return Baseline.parse(_read(flags.baseline))
    if not flags.baseline_image:
        return None
    from shipline.cli.signing import open_images, public_keys
    from shipline.supply import SignatureRefused, verify_attestations

    keys = public_keys(flags.baseline_keys)
    if not keys:
        raise UsageError("--baseline-image: whose statement counts?", hint="give --baseline-key")
    with open_images([flags.baseline_image], plain=flags.allow_http_registry) as (place,):
        try:
            found = verify_attestations(
                place.repository, place.target, place.reference, keys, SUMMARY_TYPE
            )
        except SignatureRefused as error:
            raise GateUndecided(
                f"there is no baseline that counts: {error.message}",
                verdicts=error.verdicts,
                hint="attach one with `shipline gate --image NAME@DIGEST --attest --key KEY`",
            ) from error
    newest = max((one.statement.predicate for one in found.proven), key=_judged_at)
    return Baseline.parse(json.dumps(newest).encode())


def _judged_at(predicate: object) -> str:
    return str(predicate.get("judgedAt", "")) if isinstance(predicate, dict) else ""


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_BASELINE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the baseline {path}: {error.strerror}") from error
    if len(content) > _BASELINE_LIMIT:
        raise ConfigError(f"the baseline {path} is larger than {_BASELINE_LIMIT >> 20} MiB")
    return content


def _modified(path: Path) -> float:
    try:
        return os.stat(path, follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
