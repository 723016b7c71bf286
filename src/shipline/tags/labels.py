"""Labels and annotations of an image (OCI image specification, "Annotations")."""

from __future__ import annotations

from collections.abc import Mapping

from shipline.git import web_address
from shipline.tags.situation import Situation
from shipline.tags.templates import Call, TemplatePiece, render_date, text_of

_OCI = "org.opencontainers.image"
REVISION = f"{_OCI}.revision"
PULL_MERGE = "org.shipline.pull-request.merge"
"""The commit that was built, where the revision is the head of a pull request that it merges."""
_CREATED = "YYYY-MM-DDTHH:mm:ss[Z]"


def built_from(labels: Mapping[str, object]) -> str:
    """The commit that labels or annotations name, empty where they name none."""
    return str(labels.get(PULL_MERGE) or labels.get(REVISION) or "")


def usual(situation: Situation, version: str) -> dict[str, str]:
    """The standard labels with a value. The creation time is that of the commit."""
    event = situation.event
    url = event.url or web_address(situation.url)
    found = {
        f"{_OCI}.created": render_date(situation.commit.time, _CREATED),
        f"{_OCI}.description": event.description,
        f"{_OCI}.licenses": event.licenses,
        REVISION: situation.named_commit,
        f"{_OCI}.source": url,
        f"{_OCI}.title": event.title or url.rpartition("/")[2],
        f"{_OCI}.url": url,
        f"{_OCI}.version": version,
    }
    if situation.named_commit != situation.commit.sha:
        found[PULL_MERGE] = situation.commit.sha
    return {key: value for key, value in found.items() if value}


def completed(
    usual: Mapping[str, str],
    own: Mapping[str, str],
    expressions: Mapping[str, TemplatePiece | Call],
    version: str,
) -> dict[str, str]:
    """The usual ones with those of the file over them; an empty value takes one away.

    Raises ConfigError for an expression that is not known.
    """
    values = {**expressions, "version": TemplatePiece(version)}
    filled = {key: text_of(value, values) for key, value in own.items()}
    return {key: value for key, value in sorted({**usual, **filled}.items()) if value}
