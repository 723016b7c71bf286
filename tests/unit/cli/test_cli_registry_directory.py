"""Commands on a data directory: `--data DIR` and DIR alone mean the same."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from shipline.cli.registry import group
from shipline.errors import UsageError
from shipline.server import Storage

COMMANDS = [
    ("check",),
    ("repair",),
    ("repair", "--dry-run"),
    ("gc", "--dry-run"),
    ("retention", "--dry-run"),
]
_RULES = {"version": 1, "registry": {"policy": {"retention": [{"tags": ["*"], "latest": 1}]}}}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shipline.yaml").write_text(json.dumps(_RULES))
    monkeypatch.chdir(tmp_path)
    with closing(Storage(tmp_path / "data")) as storage:
        return storage.root


@pytest.mark.parametrize("command", COMMANDS)
def test_both_spellings_mean_the_same(data: Path, command: tuple[str, ...]) -> None:
    name, *flags = command
    spellings = [("--data", str(data)), (str(data),)]
    orders = [order for words in spellings for order in ((*words, *flags), (*flags, *words))]
    for words in orders:
        done = CliRunner().invoke(group, [name, *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output


def test_records_are_converted_there_and_back(data: Path) -> None:
    pytest.importorskip("rocksdict")
    for words in (["rocksdb", "--data", str(data)], ["sqlite", str(data)]):
        CliRunner().invoke(group, ["convert", "--metadata", *words], catch_exceptions=False)
        assert (data / f"metadata.{words[0].replace('sqlite', 'db')}").exists()


@pytest.mark.parametrize("command", [*COMMANDS, ("convert", "--metadata", "sqlite"), ("serve",)])
def test_two_directories_are_refused(data: Path, command: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="two data directories"):
        CliRunner().invoke(group, [*command, "a", "--data", "b"], catch_exceptions=False)
    with pytest.raises(UsageError, match=r"no (data directory|target) given"):
        CliRunner().invoke(group, command, catch_exceptions=False)


def test_a_node_serves_either(data: Path) -> None:
    """It gets as far as the address, which is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        for words in (["--data", str(data)], [str(data)]):
            with pytest.raises(UsageError, match="cannot listen"):
                CliRunner().invoke(
                    group, ["serve", "--listen", listen, *words], catch_exceptions=False
                )
