"""`shipline du` and `shipline prune` speak as docker buildx does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shipline.cli import builder
from shipline.content import LocalStore
from shipline.errors import UsageError
from shipline.oci import media

DAY = 86_400


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHIPLINE_HOME", str(tmp_path))
    monkeypatch.setattr("shipline.cli.engine.enter", lambda: None)
    store = LocalStore(tmp_path / "content")
    for name, age in (("young", 60), ("old", 3 * DAY)):
        target = store.add(name.encode() * 2000, media.OCI_LAYER_GZIP)
        now = os.stat(store.path(target.digest)).st_mtime
        os.utime(store.path(target.digest), (now - age, now - age))
    return tmp_path


def run(*words: str, answer: str = "") -> Result:
    command = {"du": builder.du, "prune": builder.prune_command}[words[0]]
    return CliRunner().invoke(command, words[1:], input=answer, catch_exceptions=False)


def test_du_has_the_columns_of_buildx(home: Path) -> None:
    lines = run("du").output.splitlines()
    assert lines[0].split() == ["ID", "RECLAIMABLE", "SIZE", "LAST", "ACCESSED"]
    assert [line.split()[1:] for line in lines[1:3]] == [
        ["true", "8.192kB", "3", "days", "ago"],
        ["true", "12.29kB", "About", "a", "minute", "ago"],
    ]
    assert lines[3:] == ["Reclaimable:\t20.48kB", "Total:\t\t20.48kB"]


def test_du_fills_templates(home: Path) -> None:
    assert run("du", "--format", "{{.Size}} {{.Type}}").output.splitlines() == [
        "8.192kB regular",
        "12.29kB regular",
    ]
    first = json.loads(run("du", "--format", "json").output.splitlines()[0])
    assert first["Reclaimable"] is True and first["LastUsedAt"] == "3 days ago"
    assert run("du", "--verbose").output.count("Created at:") == 2
    assert run("du", "--format", r"table {{.Size}}\t{{.Type}}").output.splitlines()[:2] == [
        "SIZE      TYPE",
        "8.192kB   regular",
    ]


@pytest.mark.parametrize(
    "filters, count",
    [
        (["until=24h"], 1),
        (["unused-for=30s"], 2),
        (["type=regular"], 2),
        (["type!=regular"], 0),
        (["description~=^blob sha256:"], 2),
        (["type=regular", "until=24h"], 1),
        (["mutable=false"], 2),
        (["inuse=true"], 0),
    ],
)
def test_filters_choose(home: Path, filters: list[str], count: int) -> None:
    words = [word for one in filters for word in ("--filter", one)]
    assert len(run("du", *words).output.splitlines()) == count + 1


@pytest.mark.parametrize("text", ["inuse", "bogus=1", "until=soon", "id~=(", "mutable=maybe"])
def test_a_filter_that_means_nothing_is_refused(home: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--filter"):
        run("prune", "-f", "--filter", text)


def test_prune_asks_first(home: Path) -> None:
    assert "WARNING!" in run("prune", answer="n\n").output
    assert len(run("du").output.splitlines()) == 5
    assert run("prune", answer="y\n").output.splitlines()[-1] == "Total:\t20.48kB"
    assert len(run("du").output.splitlines()) == 3


def test_prune_keeps_what_it_is_allowed_to(home: Path) -> None:
    assert run("prune", "-f", "--max-used-space", "15kB").output.splitlines()[-1] == (
        "Total:\t8.192kB"
    )
    assert run("prune", "-f", "--reserved-space", "1GB").output == "Total:\t0B\n"
    assert run("prune", "--all", "-f").output.splitlines()[-1] == "Total:\t12.29kB"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * DAY, "2 weeks"),
        (60 * DAY, "2 months"),
        (800 * DAY, "2 years"),
    ],
)
def test_ages_are_dockers(seconds: float, text: str) -> None:
    assert builder.human_duration(seconds) == text
