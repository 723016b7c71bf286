"""The vault keeps secrets sealed: for one passphrase, one server and one place in the file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from shipline.errors import AuthError, ConfigError
from shipline.registry.credentials import Credentials
from shipline.registry.keychain import CredentialStore, credential_store, erase_credentials

pytestmark = pytest.mark.usefixtures("cheap_hashes")
ALICE = Credentials("alice", "s3cret: with ünicode")


@pytest.fixture
def vault(tmp_path: Path) -> CredentialStore:
    return CredentialStore(tmp_path / "inner" / "vault.json", "correct horse")


def test_what_was_put_comes_back(vault: CredentialStore) -> None:
    vault.put("a.example", ALICE)
    vault.put("b.example:5000", Credentials(identity_token="refresh"))
    assert vault.get("a.example") == ALICE
    assert vault.get("b.example:5000") == Credentials(identity_token="refresh")
    assert vault.get("c.example") is None
    assert vault.users() == {"a.example": "alice", "b.example:5000": ""}


def test_the_file_shows_neither_user_nor_secret_and_is_private(vault: CredentialStore) -> None:
    vault.put("a.example", ALICE)
    content = vault.path.read_text()
    assert "alice" not in content and "s3cret" not in content
    assert stat.S_IMODE(vault.path.stat().st_mode) == 0o600
    assert list(vault.path.parent.iterdir()) == [vault.path]
    assert "correct horse" not in repr(vault)


def test_another_passphrase_neither_reads_nor_adds(vault: CredentialStore) -> None:
    vault.put("a.example", ALICE)
    before = vault.path.read_bytes()
    other = CredentialStore(vault.path, "wrong horse")
    with pytest.raises(AuthError, match="wrong passphrase"):
        other.get("a.example")
    with pytest.raises(AuthError, match="wrong passphrase"):
        other.put("b.example", ALICE)
    assert vault.path.read_bytes() == before


def test_an_entry_moved_to_another_server_does_not_open(vault: CredentialStore) -> None:
    vault.put("a.example", ALICE)
    document = json.loads(vault.path.read_text())
    document["entries"]["evil.example"] = document["entries"].pop("a.example")
    vault.path.write_text(json.dumps(document))
    with pytest.raises(AuthError):
        vault.get("evil.example")


def test_forgetting_needs_no_passphrase(vault: CredentialStore) -> None:
    vault.put("a.example", ALICE)
    vault.put("b.example", ALICE)
    assert erase_credentials(vault.path, "a.example")
    assert not erase_credentials(vault.path, "a.example")
    assert vault.get("a.example") is None
    assert vault.get("b.example") == ALICE


@pytest.mark.parametrize(
    "content",
    ["", "nonsense", "[]", "{}", '{"version": 2, "salt": "", "entries": {}}', '{"version": 1}'],
)
def test_a_damaged_file_is_named_and_left_alone(vault: CredentialStore, content: str) -> None:
    vault.path.parent.mkdir()
    vault.path.write_text(content)
    with pytest.raises(ConfigError, match=r"vault\.json"):
        vault.put("a.example", ALICE)
    assert vault.path.read_text() == content


@pytest.mark.parametrize(
    "entry", [{}, {"nonce": "!", "sealed": ""}, {"nonce": 3, "sealed": 4}, None]
)
def test_a_damaged_entry_is_an_error_of_the_file(vault: CredentialStore, entry: object) -> None:
    vault.put("a.example", ALICE)
    document = json.loads(vault.path.read_text())
    document["entries"]["a.example"] = entry
    vault.path.write_text(json.dumps(document))
    if entry is None:
        assert vault.get("a.example") is None
        return
    with pytest.raises(ConfigError):
        vault.get("a.example")


def test_the_passphrase_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("from a file\n")
    place = tmp_path / "vault.json"
    assert credential_store({"SHIPLINE_PASSPHRASE": "said"}, place).passphrase == "said"
    assert (
        credential_store({"SHIPLINE_PASSPHRASE_FILE": str(file)}, place).passphrase == "from a file"
    )
    with pytest.raises(AuthError, match="locked"):
        credential_store({}, place)
    with pytest.raises(ConfigError, match="PASSPHRASE_FILE"):
        credential_store({"SHIPLINE_PASSPHRASE_FILE": str(tmp_path / "none")}, place)
