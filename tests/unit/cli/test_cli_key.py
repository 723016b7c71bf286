"""`shipline key`: made, shown and taken over without a password on the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import main_hashing_cheaply, run_shipline

KEYS = ("SHIPLINE_KEY_PASSWORD", "COSIGN_PASSWORD")


def shipline(*words: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in KEYS}
    return run_shipline(*words, cwd=cwd, environ={**clean, **environ}, program=main_hashing_cheaply)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a pair of keys; the password is "one"."""
    place = tmp_path_factory.mktemp("pair")
    done = shipline("key", "generate", cwd=place, COSIGN_PASSWORD="one")
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def made(pair: Path, tmp_path: Path) -> Path:
    """A copy of the pair for one test."""
    return shutil.copytree(pair, tmp_path, dirs_exist_ok=True)


def test_a_pair_is_made_and_its_id_printed(made: Path) -> None:
    shown = shipline("key", "inspect", "shipline.pub", "-o", "json", cwd=made)
    facts = json.loads(shown.stdout)
    assert facts["kind"] == "public" and facts["algorithm"] == "ECDSA P-256"
    private = shipline(
        "key", "inspect", "shipline.key", "-o", "json", cwd=made, COSIGN_PASSWORD="one"
    )
    assert json.loads(private.stdout) == {**facts, "file": "shipline.key", "kind": "private"}
    assert (made / "shipline.key").stat().st_mode & 0o777 == 0o600


def test_files_are_not_overwritten(made: Path) -> None:
    before = (made / "shipline.key").read_bytes()
    done = shipline("key", "generate", cwd=made, COSIGN_PASSWORD="two")
    assert done.returncode == 3 and "already exists" in done.stderr
    assert (made / "shipline.key").read_bytes() == before


def test_without_anybody_to_ask_no_key_is_made(tmp_path: Path) -> None:
    done = shipline("key", "generate", cwd=tmp_path)
    assert done.returncode == 3
    assert "no terminal to ask on" in done.stderr and "SHIPLINE_KEY_PASSWORD" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_our_variable_comes_before_cosigns_and_a_file_before_both(made: Path) -> None:
    (made / "password").write_text("one\n")
    words = ("key", "public", "shipline.key")
    wrong = shipline(*words, cwd=made, SHIPLINE_KEY_PASSWORD="two", COSIGN_PASSWORD="one")
    assert wrong.returncode == 3 and "wrong password" in wrong.stderr
    right = shipline(*words, "--password-file", "password", cwd=made, SHIPLINE_KEY_PASSWORD="two")
    assert right.stdout == (made / "shipline.pub").read_text()


def test_an_empty_password_is_only_used_where_it_is_given_and_warned_about(tmp_path: Path) -> None:
    done = shipline("key", "generate", cwd=tmp_path, COSIGN_PASSWORD="")
    assert done.returncode == 0 and "empty password" in done.stderr
    assert shipline("key", "public", "shipline.key", cwd=tmp_path, COSIGN_PASSWORD="").stdout


def test_a_key_of_openssl_is_taken_over(tmp_path: Path) -> None:
    words = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out plain.pem"
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    done = shipline(
        "key", "import", "--key", "plain.pem", "-o", "new", cwd=tmp_path, COSIGN_PASSWORD="one"
    )
    assert done.returncode == 0, done.stderr
    shown = shipline("key", "inspect", "new.pub", cwd=tmp_path)
    assert "ECDSA P-384" in shown.stdout and done.stdout.strip() in shown.stdout


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("sign", "r.example/app:v1"), 2, "no key to sign with"),
        (("sign", "--key", "shipline.pub", "r.example/app:v1"), 3, "is a public key"),
        (
            ("sign", "--key", "none.key", "r.example/app:v1"),
            3,
            "`shipline key generate` makes a key pair",
        ),
        (("sign", "--key", "env://NONE", "r.example/app:v1"), 3, "variable NONE is not set"),
        (("sign", "--key", "shipline.key"), 2, "IMAGE..."),
        (("sign", "--key", "shipline.key", "-a", "x", "r.example/app:v1"), 2, "key=value"),
        (("verify", "--key", "shipline.key", "r.example/app:v1"), 3, "is a private key"),
        (("verify", "r.example/app:v1"), 2, "no key and no trust policy"),
        (("verify", "--type", "spdx", "r.example/app:v1"), 2, "no key to verify with"),
        (("verify", "--key", "shipline.pub", "--identity", "x", "r.example/a"), 3, "identity"),
        (("verify-attestation", "--key", "shipline.pub", "--type", "x", "r.example/a"), 2, "type"),
        (("attest", "--key", "shipline.key", "r.example/app:v1"), 2, "either --predicate"),
        (("attest", "--key", "k", "--predicate", "none", "r.example/a"), 2, "cannot read none"),
    ],
)
def test_a_mistake_is_told_before_any_request(
    made: Path, words: tuple[str, ...], status: int, message: str
) -> None:
    done = shipline(*words, cwd=made, COSIGN_PASSWORD="one", HTTPS_PROXY="http://127.0.0.1:1")
    assert done.returncode == status, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_cryptography_is_loaded_only_where_it_is_used() -> None:
    code = "import sys, shipline.supply, shipline.trust; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
