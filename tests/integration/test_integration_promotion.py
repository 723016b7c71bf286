"""Promotion from one environment to the next: what the policy asks for, and what git records."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gitops import KUSTOMIZATION, new_gitops
from nodes import Node
from promotions import CHAIN, Delivered, Published, delivered, deploy
from ships import new_project

HOUR = 3600.0


def test_the_digest_of_one_environment_comes_to_the_next(chain: Delivered) -> None:
    deploy(chain)
    done = chain.run("promote", "--env", "staging").ok()
    assert done.out.strip() == chain.tip()
    assert chain.deployed("staging") == chain.deployed("dev") == "v0.1.0"
    assert chain.trailers("Action") == ["promote"] and chain.trailers("From") == ["dev"]
    assert chain.gitops.subjects()[0] == "promote app v0.1.0 from dev to staging"
    again = chain.run("promote", "--env", "staging").ok()
    assert "staging has" in again.err and chain.tip() == done.out.strip()
    chain.run("promote", "--env", "production", f"{chain.image}:v0.1.0").ok()
    assert chain.deployed("production") == "v0.1.0"


def test_what_was_not_in_the_environment_before_is_refused(chain: Delivered) -> None:
    deploy(chain)
    tip = chain.tip()
    for word in (f"{chain.image}:v0.2.0", f"{chain.image}:v0.1.0"):
        refused = chain.run("promote", "--env", "production", word)
        assert refused.status == 9 and "it was never deployed to staging" in refused.err
    nothing = chain.run("promote", "--env", "production")
    assert nothing.status == 2 and "nothing of app was deployed to staging" in nothing.err
    assert chain.tip() == tip


def test_different_people_approve_and_not_the_author(published: Published, tmp_path: Path) -> None:
    rules = {**CHAIN, "staging": "after: dev\napprovals: {required: 2, by: ['*@example.org']}"}
    where = delivered(published, tmp_path, rules)
    deploy(where)
    waits = where.run("promote", "--env", "staging")
    assert waits.status == 16 and "approvals: 0 of 2" in waits.err
    tip = where.tip()
    author = where.run("approve", "--env", "staging", by="n@example.org")
    assert author.status == 9 and "n@example.org wrote the commit" in author.err
    stranger = where.run("approve", "--env", "staging", by="eve@elsewhere.example")
    assert stranger.status == 9 and "is not one of *@example.org" in stranger.err
    assert where.tip() == tip
    where.run("approve", "--env", "staging", "-m", "looks good", by="alice@example.org").ok()
    assert where.trailers("Reason") == ["looks good"]
    twice = where.run("approve", "--env", "staging", by="Alice@example.org")
    assert twice.status == 9 and "has approved v0.1.0 for staging already" in twice.err
    assert where.run("promote", "--env", "staging").status == 16
    where.run("approve", "--env", "staging", by="bob@example.org").ok()
    where.run("promote", "--env", "staging").ok()
    assert where.trailers("Approved-By") == ["bob@example.org", "alice@example.org"]
    deploy(where, "v0.2.0")
    other = where.run("promote", "--env", "staging")
    assert other.status == 16 and "0 of 2" in other.err  # approvals are of a digest


def test_a_deployment_is_no_way_round_the_rules(published: Published, tmp_path: Path) -> None:
    rules = {**CHAIN, "staging": "after: dev\napprovals: {required: 1}"}
    where = delivered(published, tmp_path, rules)
    first = ("deploy", "--env", "staging", f"{where.image}:v0.1.0")
    tip = where.tip()
    refused = where.run(*first)
    assert refused.status == 9 and "after: it was never deployed to dev" in refused.err
    deploy(where)
    waits = where.run(*first)
    assert waits.status == 16 and "approvals: 0 of 1" in waits.err
    assert "`shipline approve --env staging v0.1.0`" in waits.err
    where.run("approve", "--env", "staging", "v0.1.0", by="alice@example.org").ok()
    where.run(*first).ok()
    assert where.trailers("From") == ["dev"]
    assert where.trailers("Approved-By") == ["alice@example.org"]
    tip = where.tip()
    assert "staging has" in where.run(*first).ok().err and where.tip() == tip


def test_an_emergency_bypasses_all_but_holds_and_stops(
    published: Published, tmp_path: Path
) -> None:
    rules = {**CHAIN, "staging": "after: dev\napprovals: {required: 1}"}
    where = delivered(published, tmp_path, rules)
    words = ("deploy", "--env", "staging", f"{where.image}:v0.2.0", "--emergency", "dev is down")
    where.run("env", "stop", "staging").ok()
    assert where.run(*words).status == 9
    where.run("env", "resume", "staging").ok()
    where.run(*words).ok()
    assert where.trailers("Bypassed") == ["after", "approvals"]
    assert where.trailers("Reason") == ["dev is down"] and where.trailers("From") == []
    assert where.gitops.subjects()[0] == "deploy app v0.2.0 to staging"
    assert "bypassed: after, approvals" in where.run("env", "why", "staging").ok().out
    history = where.run("env", "history", "staging").ok().out
    assert "bypassed after, approvals: dev is down" in history


def test_nobody_approves_an_older_version_in_vain(published: Published, tmp_path: Path) -> None:
    rules = {**CHAIN, "staging": "after: dev\napprovals: {required: 1}"}
    where = delivered(published, tmp_path, rules)
    deploy(where)
    deploy(where, "v0.2.0")
    where.run("approve", "--env", "staging", by="alice@example.org").ok()
    where.run("promote", "--env", "staging").ok()
    older = ("promote", "--env", "staging", "v0.1.0")
    refused = where.run(*older)
    assert refused.status == 9 and "order: staging has app v0.2.0 already" in refused.err
    assert "--allow-older" in refused.err
    assert where.run(*older, "--allow-older").status == 16
    where.run("approve", "--env", "staging", "v0.1.0", by="alice@example.org").ok()
    where.run(*older, "--allow-older").ok()
    assert where.trailers("Bypassed") == ["order"]


def test_a_deployment_sets_again_what_was_changed_by_hand(chain: Delivered) -> None:
    deploy(chain)
    text = chain.gitops.show("dev/kustomization.yaml")
    chain.gitops.push({"dev/kustomization.yaml": text.replace("v0.1.0", "latest")})
    deploy(chain)
    assert chain.deployed("dev") == "v0.1.0"


def test_a_rollback_holds_what_was_bad_until_it_is_released(chain: Delivered) -> None:
    for version in ("v0.1.0", "v0.2.0"):
        deploy(chain, version)
        chain.run("promote", "--env", "staging").ok()
    count = len(chain.gitops.subjects())
    chain.run("rollback", "--env", "staging", "-m", "errors").ok()
    assert chain.deployed("staging") == "v0.1.0"
    assert chain.gitops.subjects()[:2] == [
        "hold app v0.2.0 in staging",
        "roll back app to v0.1.0 in staging",
    ]
    refused = chain.run("promote", "--env", "staging")
    assert refused.status == 9 and "it is held in staging by n <ops@example.org>" in refused.err
    again = chain.run("rollback", "--env", "staging")
    assert again.status == 9 and "was rolled back to v0.1.0 already" in again.err
    assert len(chain.gitops.subjects()) == count + 2
    chain.run("release", "--env", "staging").ok()
    assert "nothing is held" in chain.run("release", "--env", "staging").ok().err
    chain.run("promote", "--env", "staging").ok()
    assert chain.deployed("staging") == "v0.2.0"


def test_a_rollback_to_what_is_there_holds_nothing(chain: Delivered) -> None:
    deploy(chain)
    tip = chain.tip()
    refused = chain.run("rollback", "--env", "dev", "v0.1.0")
    assert refused.status == 2 and "dev has v0.1.0 already" in refused.err and chain.tip() == tip


def test_what_was_changed_by_hand_is_said_and_not_promoted(chain: Delivered) -> None:
    deploy(chain)
    chain.run("promote", "--env", "staging").ok()
    assert "by hand" not in chain.run("status").ok().out
    text = chain.gitops.show("staging/kustomization.yaml")
    chain.gitops.push({"staging/kustomization.yaml": text.replace("v0.1.0", "evil")})
    row = chain.status()["staging"]
    assert "staging/kustomization.yaml differs since" in row["changed_by_hand"]
    assert "by n <n@example.org>" in row["changed_by_hand"] and not row["verified"]
    assert "changed by hand" in chain.run("status").ok().out
    assert "changed by hand" in chain.run("env", "why", "staging").ok().out
    assert "changed by hand" in chain.run("env", "blame", "staging").ok().err
    refused = chain.run("promote", "--env", "production")
    assert refused.status == 9 and "staging was changed by hand" in refused.err
    chain.run("promote", "--env", "staging").ok()
    assert chain.deployed("staging") == "v0.1.0"
    chain.gitops.push({"staging/kustomization.yaml": text + "# a note\n"})
    shown = chain.run("env", "history", "staging").ok().out.splitlines()
    assert ["promote" in line for line in shown] == [True, False, True]
    assert "changed by hand: app set to evil sha256:" in shown[1] and "  n  " in shown[1]
    values = json.loads(chain.run("env", "history", "staging", "-n", "2", "--json").ok().out)
    assert [one["action"] for one in values] == ["promote", "edit"]
    assert values[1]["present"][0] == "evil" and values[1]["by"] == "n <n@example.org>"
    assert len(chain.run("env", "history", "dev").ok().out.splitlines()) == 1
    chain.run("promote", "--env", "production").ok()


def test_a_gitops_repository_that_is_not_there_is_named(chain: Delivered) -> None:
    chain.gitops.remote.rename(chain.gitops.remote.parent / "moved.git")
    done = chain.run("status")
    assert done.status == 12 and "deploy.git" in done.err and "cannot be read" in done.err


def test_an_empty_argument_is_an_error(chain: Delivered) -> None:
    deploy(chain)
    for words in (("promote",), ("rollback",), ("approve",), ("hold",), ("release",)):
        done = chain.run(*words, "--env", "staging", "")
        assert done.status == 2 and "image is empty" in done.err
    empty = chain.run("promote", "--env", "staging", "--from", "")
    assert empty.status == 2 and "--from is empty" in empty.err


def test_a_directory_without_a_project_is_named(chain: Delivered, tmp_path: Path) -> None:
    for words in (("status",), ("promote", "--env", "dev"), ("deploy", "--env", "dev", "a")):
        done = chain.run(*words, "-C", str(tmp_path))
        assert done.status == 3 and "there is no shipline.yaml" in done.err


def test_there_is_nothing_to_roll_back_to_before_the_first_version(chain: Delivered) -> None:
    deploy(chain)
    refused = chain.run("rollback", "--env", "dev")
    assert refused.status == 9 and "dev had nothing verified before v0.1.0" in refused.err
    assert chain.run("rollback", "--env", "staging").status == 2


def test_a_hold_in_the_environment_before_stops_a_digest_too(chain: Delivered) -> None:
    deploy(chain)
    chain.run("hold", "--env", "dev", "-m", "leaks").ok()
    assert "is held in dev already" in chain.run("hold", "--env", "dev").ok().err
    refused = chain.run("promote", "--env", "staging")
    assert refused.status == 9 and "it is held in dev by" in refused.err and "leaks" in refused.err
    chain.run("release", "--env", "dev", "v0.1.0").ok()
    chain.run("promote", "--env", "staging").ok()


def test_stopped_promotions_go_on_when_they_are_resumed(chain: Delivered) -> None:
    deploy(chain)
    chain.run("env", "stop", "staging", "-m", "incident 7").ok()
    refused = chain.run("promote", "--env", "staging")
    assert refused.status == 9 and "promotions to staging are stopped by" in refused.err
    assert "incident 7" in refused.err
    assert chain.status()["staging"]["stopped"]["reason"] == "incident 7"
    chain.run("env", "resume", "staging").ok()
    chain.run("promote", "--env", "staging").ok()


def test_the_soak_counts_from_the_verification_and_ends_with_a_replacement(
    published: Published, tmp_path: Path
) -> None:
    where = delivered(published, tmp_path, {**CHAIN, "staging": "after: dev\nsoak: 30m"})
    deploy(where, at=-0.4 * HOUR)
    waits = where.run("promote", "--env", "staging")
    assert waits.status == 16 and re.search(r"verified for 24m(\d+s)? of 30m in dev", waits.err)
    assert "may not be promoted to staging yet: not before 20" in waits.err
    deploy(where, "v0.2.0", at=-0.3 * HOUR)
    refused = where.run("promote", "--env", "staging", "v0.1.0")
    assert refused.status == 9
    assert re.search(r"it was replaced after [56]m(\d+s)? of 30m in dev", refused.err)


def test_a_soak_that_is_over_lets_it_pass(published: Published, tmp_path: Path) -> None:
    where = delivered(published, tmp_path, {**CHAIN, "staging": "after: dev\nsoak: 30m"})
    deploy(where, at=-HOUR)
    where.run("promote", "--env", "staging").ok()


def test_commits_from_the_future_are_an_error_and_no_soak(
    published: Published, tmp_path: Path
) -> None:
    where = delivered(published, tmp_path, {**CHAIN, "staging": "after: dev\nsoak: 30m"})
    deploy(where, at=2 * HOUR)
    tip = where.tip()
    refused = where.run("promote", "--env", "staging")
    assert refused.status == 9 and "is in the future here" in refused.err
    assert "correct the clock" in refused.err and where.tip() == tip


def test_a_freeze_says_when_it_ends_and_windows_when_they_open(
    published: Published, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    freeze = f"freezes: [{{from: {today}, to: {today + timedelta(days=1)}, reason: holidays}}]"
    other = (today + timedelta(days=3)).strftime("%a").lower()
    rules = {
        **CHAIN,
        "staging": f"after: dev\n{freeze}",
        "production": f"after: dev\nwindows: [{{days: [{other}], from: '10:00', to: '11:00'}}]",
    }
    where = delivered(published, tmp_path, rules)
    deploy(where)
    frozen = where.run("promote", "--env", "staging")
    assert frozen.status == 16
    assert f"not before {today + timedelta(days=2)} 00:00:00 UTC" in frozen.err
    assert "(holidays)" in frozen.err
    closed = where.run("promote", "--env", "production")
    assert closed.status == 16
    assert f"not before {today + timedelta(days=3)} 10:00:00 UTC" in closed.err
    assert f"promotions are made {other} 10:00-11:00 UTC" in closed.err


def test_the_board_and_the_history_say_who_did_what(chain: Delivered) -> None:
    deploy(chain)
    chain.run("promote", "--env", "staging").ok()
    deploy(chain, "v0.2.0")
    board = chain.run("status").ok().out.splitlines()
    assert board[0].split()[:2] == ["ENVIRONMENT", "VERSION"]
    assert [line.split()[:2] for line in board[1:]] == [
        ["dev", "v0.2.0"],
        ["staging", "v0.1.0"],
        ["production", "-"],
    ]
    rows = chain.status()
    assert rows["staging"]["candidate"]["version"] == "v0.2.0"
    assert rows["production"]["candidate"]["version"] == "v0.1.0" and rows["dev"]["verified"]
    history = chain.run("env", "history", "dev").ok().out.splitlines()
    assert ["deploy app v0.2.0 to dev" in history[0], len(history)] == [True, 2]
    why = chain.run("env", "why", "staging").ok().out
    assert "staging has v0.1.0, promoted from dev by n <ops@example.org>" in why
    assert "v0.2.0 of dev may be promoted now" in why
    blame = chain.run("env", "blame", "staging").ok().out
    assert chain.deployed("staging") in blame and "by n <n@example.org>" in blame


def test_the_history_says_how_well_is_delivered(chain: Delivered, tmp_path: Path) -> None:
    deploy(chain, at=-4 * HOUR)
    chain.run("promote", "--env", "staging", at=-3 * HOUR).ok()
    deploy(chain, "v0.2.0", at=-2 * HOUR)
    chain.run("rollback", "--env", "dev", at=-HOUR).ok()
    shown = chain.run("env", "metrics").ok().out.splitlines()
    assert shown[0].split("  ")[0] == "ENVIRONMENT"
    assert [line.split()[:2] for line in shown[1:]] == [
        ["dev", "2,"],
        ["staging", "1,"],
        ["production", "none"],
    ]
    assert "1, 50%" in shown[1] and "1h" in shown[1]
    [dev] = json.loads(chain.run("env", "metrics", "dev", "--last", "7d", "--json").ok().out)
    assert (dev["deployments"], dev["rollbacks"], dev["change_failure_ratio"]) == (2, 1, 0.5)
    assert dev["restore_time_s"]["p50"] == pytest.approx(HOUR, abs=60)
    assert dev["lead_time_s"]["count"] == 2 and dev["without_commits"] == 0
    text = chain.run("env", "metrics", "--prometheus").ok().out
    promoted = '{action="promote",environment="staging",pipeline="app"}'
    assert f"shipline_deployments_total{promoted} 1.0" in text
    nowhere = chain.run("env", "metrics", "--send")
    assert nowhere.status == 2 and "SHIPLINE_PUSHGATEWAY" in nowhere.err
    file = tmp_path / "delivery.prom"
    for _ in range(2):
        chain.run("env", "metrics", "--send", environ={"SHIPLINE_METRICS_FILE": str(file)}).ok()
    assert file.read_text() == text


def test_an_unknown_image_or_environment_is_named(chain: Delivered) -> None:
    deploy(chain)
    tip = chain.tip()
    for words, status, message in (
        (("promote", "--env", "nowhere"), 2, "there is no environment 'nowhere'"),
        (("promote", "--env", "dev"), 2, "it comes after no environment: name an image"),
        (("promote", "--env", "staging", "v9"), 2, "'v9' was never deployed here"),
        (("promote", "--env", "staging", f"{chain.image}:v9"), 8, "v9"),
        (("approve", "--env", "staging"), 2, "staging needs no approvals"),
        (("hold", "--env", "production"), 2, "nothing of app was deployed to production"),
    ):
        done = chain.run(*words)
        assert (done.status, message in done.err) == (status, True), done.err
        assert "Traceback" not in done.err
    assert chain.tip() == tip


TARGETS = """\
build: {{platforms: [linux/amd64]}}
targets:
  web: {{image: {image}-web, args: {{WHAT: web}}}}
  worker: {{image: {image}-worker, file: worker.Dockerfile}}
environments:
  dev:
    gitops:
      repository: {gitops}
      updates: [{{kustomization: dev, target: web}}, {{kustomization: dev, target: worker}}]
"""


def test_a_rollback_of_several_images_holds_only_those_it_takes_back(
    publishing_node: Node, tmp_path: Path
) -> None:
    """An image that both versions have is not bad, and comes with the next version."""
    project = new_project(tmp_path, publishing_node, "")
    image = project.image + "-several"
    names = [f"{image}-{target}" for target in ("web", "worker")]
    kustomization = "".join(KUSTOMIZATION.replace("{image}", name) for name in names)
    kustomization = kustomization.replace("images:\n", "").join(["images:\n", ""])
    files = {"dev/kustomization.yaml": kustomization}
    gitops = new_gitops(tmp_path / "deploy.git", project.environ(), files)
    text = TARGETS.format(image=image, gitops=gitops.remote)
    given = {"shipline__yaml": text, "worker__Dockerfile": "FROM scratch\nCOPY shipline.yaml /\n"}
    where = Delivered(project, gitops)
    for number in (1, 2, 3):
        project.commit(f"feat: {number}", app=f"{number}\n", **given)
        project.ship("--until", "publish").ok()

    def deploy_web(version: str) -> None:
        where.run(
            "deploy", "--env", "dev", f"web={names[0]}:{version}", f"worker={names[1]}:v0.1.0"
        ).ok()

    deploy_web("v0.1.0")
    deploy_web("v0.2.0")
    where.run("rollback", "--env", "dev").ok()
    assert gitops.subjects()[0] == "hold app-several-web v0.2.0 in dev"
    assert [image.partition(":v")[0] for image in where.trailers("Image")] == [names[0]]
    deploy_web("v0.3.0")
