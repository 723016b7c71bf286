"""Promotions at once, killed ones, and the proofs that they ask for."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builds import Done
from forge import forge
from gitops import GitOps
from promotions import CHAIN, Delivered, Published, delivered, deploy

TRUST = """\
trust:
  keys: {ours: ../ship.pub}
  rules: [{images: ["**"], keys: [ours]}]
"""
_WAIT_S = 30.0


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + _WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def pushing_slowly(where: Delivered) -> None:
    """Each push waits in the remote repository while `wait` is there, and says so in `reached`."""
    hook = where.gitops.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    (where.gitops.remote / "wait").touch()
    hook.write_text("#!/bin/sh\ntouch reached\nwhile [ -e wait ]; do sleep 0.02; done\n")
    hook.chmod(0o755)


def test_two_promotions_at_once_both_land_or_one_finds_it_there(
    published: Published, tmp_path: Path
) -> None:
    rules = {**CHAIN, "production": "after: dev", "other": "after: dev"}
    where = delivered(published, tmp_path, rules)
    deploy(where)
    targets = ["staging", "staging", "production", "other"]
    done: dict[int, Done] = {}

    def run(number: int) -> None:
        """With a home of its own, so that nothing but the remote orders them."""
        home = {"SHIPLINE_HOME": str(tmp_path / f"home{number}")}
        done[number] = where.run("promote", "--env", targets[number], environ=home)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(targets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done[number].status for number in range(4)] == [0, 0, 0, 0]
    assert {where.deployed(name) for name in targets} == {"v0.1.0"}
    subjects = where.gitops.subjects()
    assert subjects.count("promote app v0.1.0 from dev to staging") == 1
    assert len(subjects) == 5


def test_what_was_stopped_during_the_push_is_not_promoted(chain: Delivered) -> None:
    """Somebody stops promotions between our decision and our push."""
    deploy(chain)
    pushing_slowly(chain)
    started = chain.project.start("promote", "--env", "staging")
    wait_for(lambda: (chain.gitops.remote / "reached").exists())
    (chain.gitops.remote / "hooks" / "pre-receive").unlink()
    stop = chain.run(
        "env", "stop", "staging", environ={"SHIPLINE_HOME": str(chain.gitops.remote / "home")}
    )
    assert stop.ok()
    (chain.gitops.remote / "wait").unlink()
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 9, errors
    assert b"promotions to staging are stopped by" in errors
    assert chain.deployed("staging") == "none"


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_a_process_that_is_killed_leaves_all_or_nothing(chain: Delivered, verb: str) -> None:
    for version in ("v0.1.0", "v0.2.0"):
        deploy(chain, version)
        if version == "v0.1.0" or verb == "rollback":
            chain.run("promote", "--env", "staging").ok()
    before = chain.gitops.subjects()
    pushing_slowly(chain)
    started = chain.project.start(verb, "--env", "staging")
    wait_for(lambda: (chain.gitops.remote / "reached").exists())
    started.kill()
    started.communicate()
    (chain.gitops.remote / "wait").unlink()
    (chain.gitops.remote / "hooks" / "pre-receive").unlink()
    wait_for(lambda: not any(chain.gitops.remote.glob("refs/heads/*.lock")))
    time.sleep(0.5)  # git's own processes end
    added = 1 if verb == "promote" else 2
    assert len(chain.gitops.subjects()) - len(before) in (0, added)
    again = chain.run(verb, "--env", "staging")
    assert again.status in ((0,) if verb == "promote" else (0, 9)), again.err
    assert len(chain.gitops.subjects()) - len(before) == added
    assert chain.deployed("staging") == ("v0.2.0" if verb == "promote" else "v0.1.0")


def test_approvals_count_only_if_their_own_key_signed_them(
    published: Published, tmp_path: Path
) -> None:
    people = ("alice", "bob")
    for name in people:
        words = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name))
        subprocess.run(words, check=True)
    lines = [f"{name}@example.org {(tmp_path / f'{name}.pub').read_text()}" for name in people]
    (tmp_path / "signers").write_text("".join(lines))
    approvals = f"approvals: {{required: 2, signers: {tmp_path / 'signers'}}}"
    where = delivered(published, tmp_path, {**CHAIN, "staging": f"after: dev\n{approvals}"})
    deploy(where)

    def approve(by: str, key: str) -> Done:
        settings = {"gpg.format": "ssh", "user.signingkey": str(tmp_path / f"{key}.pub")}
        environ = {"GIT_CONFIG_COUNT": str(len(settings))}
        for number, (name, value) in enumerate(settings.items()):
            environ |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        private = {"GIT_CONFIG_VALUE_1": str(tmp_path / key)}
        return where.run("approve", "--env", "staging", by=by, environ=environ | private)

    approve("alice@example.org", "alice").ok()
    tip = where.tip()
    without = where.run("approve", "--env", "staging", by="bob@example.org")
    assert without.status == 12 and "git cannot sign the commit" in without.err
    assert "git config gpg.format ssh" in without.err
    other = approve("bob@example.org", "alice")
    assert other.status == 12 and "is not signed by a key of bob@example.org" in other.err
    assert where.tip() == tip
    # bob is impersonated by git alone: the commit is there, and does not count
    message = where.gitops.git("log", "-1", "--format=%B", "main")
    forged = {"GIT_COMMITTER_EMAIL": "bob@example.org"}
    bare = GitOps(where.gitops.remote, {**where.gitops.environ, **forged})
    bare.push({"note": "x"}, message)
    waits = where.run("promote", "--env", "staging")
    assert waits.status == 16 and "1 of 2, by alice@example.org" in waits.err
    assert "not signed by their own keys: 1" in waits.err
    approve("bob@example.org", "bob").ok()
    where.run("promote", "--env", "staging").ok()


def test_required_gates_are_read_from_signed_statements_or_runs(
    published: Published, tmp_path: Path
) -> None:
    rule = "after: dev\ngates: {required: [coverage], max-age: 7d}"
    where = delivered(published, tmp_path, {**CHAIN, "staging": rule}, TRUST)
    deploy(where)
    elsewhere = {"SHIPLINE_HOME": str(tmp_path / "home")}  # without records of runs
    where.run("promote", "--env", "staging", environ=elsewhere).ok()
    assert where.trailers("Gate")[0].startswith("coverage=pass:")
    bare = delivered(published, tmp_path / "bare", {**CHAIN, "staging": rule})
    deploy(bare)
    missing = bare.run("promote", "--env", "staging", environ=elsewhere)
    assert missing.status == 9 and "gate coverage: no verdict on this digest" in missing.err
    bare.run("promote", "--env", "staging").ok()  # this machine ran the gates
    strict = delivered(
        published, tmp_path / "strict", {**CHAIN, "staging": rule.replace("7d", "1ms")}, TRUST
    )
    deploy(strict)
    old = strict.run("promote", "--env", "staging")
    assert old.status == 9 and "old, more than 1ms" in old.err


def test_an_unsigned_or_missing_digest_is_refused_and_nothing_is_committed(
    published: Published, tmp_path: Path
) -> None:
    where = delivered(published, tmp_path, CHAIN)
    deploy(where)
    (tmp_path / "other.pub").write_text((published.project.root.parent / "ship.pub").read_text())
    words = ("key", "generate", "--output-key-prefix", str(tmp_path / "other"))
    (tmp_path / "other.pub").unlink()
    where.run(*words, environ={"SHIPLINE_KEY_PASSWORD": "x"}).ok()
    text = (published.project.root / "shipline.yaml").read_text()
    trust = TRUST.replace("../ship.pub", str(tmp_path / "other.pub"))
    published.project.write("shipline.yaml", text + trust)
    tip = where.tip()
    unsigned = where.run("promote", "--env", "staging")
    assert unsigned.status == 9 and "is not trusted" in unsigned.err
    why = where.run("env", "why", "staging").ok().out
    assert "trust: " in why and "is not trusted" in why
    published.project.write("shipline.yaml", text)
    message = where.gitops.git("log", "-1", "--format=%B", "main")
    digest = re.search("sha256:[0-9a-f]{64}", message)
    assert digest
    where.gitops.push({"note": "x"}, message.replace(digest[0], f"sha256:{'0' * 64}"))
    missing = where.run("promote", "--env", "staging")
    assert missing.status == 8, missing.err
    assert where.deployed("staging") == "none" and tip != where.tip()


def test_records_of_proposed_changes_have_a_branch_of_their_own(
    published: Published, tmp_path: Path
) -> None:
    where = delivered(published, tmp_path, {**CHAIN, "staging": "after: dev\napprovals: {}"})
    deploy(where)
    text = (published.project.root / "shipline.yaml").read_text()
    url = "https://git.example/team/deploy.git"
    with forge("secret") as server:
        before, after = text.split("  staging:\n")
        after = after.replace(
            f"{{repository: {where.gitops.remote},",
            f"{{repository: {url}, pull-request: true, api: {server.url}/api/v3,",
            1,
        )
        published.project.write("shipline.yaml", f"{before}  staging:\n{after}")
        environ = {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{where.gitops.remote}.insteadOf",
            "GIT_CONFIG_VALUE_0": url,
            "GITHUB_TOKEN": "secret",
        }
        tip = where.tip()
        where.run("approve", "--env", "staging", by="bob@example.org", environ=environ).ok()
        assert where.gitops.git("log", "-1", "--format=%s", "shipline/records").strip() == (
            "approve app v0.1.0 for staging"
        )
        done = where.run("promote", "--env", "staging", environ=environ).ok()
        assert done.out.strip() == f"{server.url}/requests/1" and where.tip() == tip
        head = "shipline/staging/app"
        assert "v0.1.0" in where.gitops.git("show", f"{head}:staging/kustomization.yaml")
        where.run("hold", "--env", "staging", "v0.1.0", environ=environ).ok()
        refused = where.run("promote", "--env", "staging", environ=environ)
        assert refused.status == 9 and "it is held in staging" in refused.err
        assert len(server.requests) == 1 and where.tip() == tip


def test_an_environment_with_checks_must_have_passed_them(
    published: Published, tmp_path: Path
) -> None:
    rules = {**CHAIN, "dev": "checks: {smoke: {run: test -e ../healthy}}"}
    where = delivered(published, tmp_path, rules)
    deploy(where)
    waits = where.run("promote", "--env", "staging")
    assert waits.status == 16 and "it is not verified in dev yet" in waits.err
    assert "shipline check --env dev" in waits.err
    assert where.run("check", "--env", "dev").status == 17
    failed = where.run("promote", "--env", "staging")
    assert failed.status == 9 and "its verification in dev says fail" in failed.err
    (published.project.root.parent / "healthy").touch()
    where.run("check", "--env", "dev").ok()
    where.run("promote", "--env", "staging").ok()
    assert where.status()["dev"]["verified"]
    (published.project.root.parent / "healthy").unlink()


def test_a_deployment_respects_holds_and_stops(chain: Delivered) -> None:
    deploy(chain)
    deploy(chain, "v0.2.0")
    chain.run("rollback", "--env", "dev").ok()
    image = f"{chain.image}:v0.2.0"
    held = chain.run("deploy", "--env", "dev", image)
    assert held.status == 9 and "it is held in dev by" in held.err
    chain.run("release", "--env", "dev").ok()
    chain.run("env", "stop", "dev").ok()
    assert chain.run("deploy", "--env", "dev", image).status == 9
    chain.run("env", "resume", "dev").ok()
    chain.run("deploy", "--env", "dev", image).ok()
    assert chain.deployed("dev") == "v0.2.0"


ROLLOUT = """\
kind: Rollout
metadata: {name: app}
spec:
  strategy:
    canary:
      steps:
      - setWeight: 100
      - pause: {duration: 1}
  template: {spec: {containers: [{name: app, image: none}]}}
"""


def test_a_rollback_during_a_canary_ends_it_and_holds_its_image(
    published: Published, tmp_path: Path
) -> None:
    canary = "canary: {weights: {rollout: rollout.yaml}, steps: [{weight: 20, hold: 1h}]}"
    where = delivered(published, tmp_path, {"dev": "", "staging": f"after: dev\n{canary}"})
    where.gitops.push({"rollout.yaml": ROLLOUT})
    text = (published.project.root / "shipline.yaml").read_text()
    published.project.write(
        "shipline.yaml",
        text.replace("{kustomization: staging}", "{manifests: rollout.yaml, container: app}"),
    )
    deploy(where)
    where.run("promote", "--env", "staging").ok()
    deploy(where, "v0.2.0")
    started = where.project.start("canary", "--env", "staging", f"{where.image}:v0.2.0")
    wait_for(lambda: where.gitops.subjects()[0].startswith("give app v0.2.0 20 %"))
    started.kill()
    started.communicate()
    assert ":v0.2.0@" in where.gitops.show("rollout.yaml")
    assert "canary v0.2.0 20 %" in where.run("status").ok().out
    assert where.status()["staging"]["canary"]["weight"] == 20
    where.run("rollback", "--env", "staging").ok()
    assert ":v0.1.0@" in where.gitops.show("rollout.yaml")
    assert where.gitops.subjects()[:2] == [
        "hold app v0.2.0 in staging",
        "roll back app to v0.1.0 in staging",
    ]
    refused = where.run("promote", "--env", "staging")
    assert refused.status == 9 and "it is held in staging" in refused.err
