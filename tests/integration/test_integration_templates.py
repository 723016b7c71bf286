"""--format beside Go: each template is rendered by the docker command and by ours."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shipline.cli.template import GoStruct, render
from shipline.errors import UsageError

pytestmark = pytest.mark.peers

TEMPLATES: list[str] = json.loads(Path(__file__).with_name("go_templates.json").read_text())
ENDPOINT = GoStruct({"Host": "unix:///var/run/docker.sock", "SkipTLSVerify": False})
CONTEXT = {"Name": "default", "Endpoints": {"docker": ENDPOINT}}


def by_docker(template: str) -> str | None:
    """None for a template that is refused."""
    command = ["docker", "context", "inspect", "--format", template, "default"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    return done.stdout[:-1] if done.returncode == 0 else None


def by_us(template: str) -> str | None:
    try:
        return render(template, CONTEXT, indent=None)
    except UsageError:
        return None


def test_templates_give_what_go_gives() -> None:
    with ThreadPoolExecutor(4) as pool:
        expected = list(pool.map(by_docker, TEMPLATES))
    assert sum(text is not None for text in expected) > 100
    found = list(map(by_us, TEMPLATES))
    assert dict(zip(TEMPLATES, found, strict=True)) == dict(zip(TEMPLATES, expected, strict=True))
