"""Events as the bodies that receivers expect; no I/O.

docker: `application/vnd.docker.distribution.events.v1+json`, as docker-registry sends it.
cloudevents: CloudEvents 1.0 in structured JSON mode. harbor: the default payload of Harbor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from shipline.server.journal import Event

_HARBOR = {
    "push": "PUSH_ARTIFACT",
    "pull": "PULL_ARTIFACT",
    "quota": "QUOTA_EXCEED",
    "ping": "PING",
}


def body_of(style: str, identity: str, event: Event) -> tuple[str, bytes]:
    """Media type and content. The same event always gives the same bytes."""
    media_type, make = _STYLES[style]
    return media_type, json.dumps(make(identity, event), separators=(",", ":")).encode()


def _docker(identity: str, event: Event) -> dict[str, Any]:
    """One entry for each tag: the format has room for one."""
    tags = event.tags or ("",)
    return {"events": [_docker_entry(identity, event, tag) for tag in tags]}


def _docker_entry(identity: str, event: Event, tag: str) -> dict[str, Any]:
    target: dict[str, Any] = {
        "mediaType": event.media_type,
        "size": event.size,
        "length": event.size,
        "digest": event.digest,
        "repository": event.repository,
        "tag": tag,
    }
    return {
        "id": f"{identity}-{tag}" if tag else identity,
        "timestamp": _time(event),
        "action": "delete" if event.kind == "untag" else event.kind,
        "target": {key: value for key, value in target.items() if value},
        "request": {"id": identity, "addr": event.address},
        "actor": {"name": event.actor},
        "source": {},
    }


def _cloudevent(identity: str, event: Event) -> dict[str, Any]:
    data = {
        "repository": event.repository,
        "digest": event.digest,
        "tags": list(event.tags),
        "mediaType": event.media_type,
        "size": event.size,
        "actor": event.actor,
        "address": event.address,
        "message": event.message,
    }
    return {
        "specversion": "1.0",
        "id": identity,
        "source": "/shipline/registry",
        "type": f"shipline.registry.{event.kind}",
        "subject": event.repository,
        "time": _time(event),
        "datacontenttype": "application/json",
        "data": {key: value for key, value in data.items() if value},
    }


def _harbor(identity: str, event: Event) -> dict[str, Any]:
    namespace, _, name = event.repository.partition("/")
    resources = [{"digest": event.digest, "tag": tag} for tag in event.tags or ("",)]
    return {
        "type": _HARBOR.get(event.kind, "DELETE_ARTIFACT"),
        "occur_at": int(event.at),
        "operator": event.actor,
        "event_data": {
            "resources": [{k: v for k, v in each.items() if v} for each in resources],
            "repository": {
                "namespace": namespace,
                "name": name or namespace,
                "repo_full_name": event.repository,
            },
        },
    }


def _time(event: Event) -> str:
    at = datetime.fromtimestamp(event.at, UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


_STYLES: Mapping[str, tuple[str, Callable[[str, Event], dict[str, Any]]]] = {
    "docker": ("application/vnd.docker.distribution.events.v1+json", _docker),
    "cloudevents": ("application/cloudevents+json", _cloudevent),
    "harbor": ("application/json", _harbor),
}
