"""The pages about releases and environments: what they show of a real GitOps repository and a real
registry, and what is decided on them.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from accessible_pages import axe_script, faults_of_pages
from browser import browser, navigation
from promotions import Delivered, Published, delivered, deploy
from ui_servers import Visitor, ui_server

RULES = {
    "dev": "",
    "staging": "after: dev\napprovals: {required: 1, by: ['*@example.org']}",
    "production": "after: staging\nsoak: 1h",
}
TRUST = "trust: {keys: {release: ../ship.pub}, rules: [{images: ['**'], action: require}]}"
ALICE = {"GIT_COMMITTER_EMAIL": "alice@example.org", "GIT_COMMITTER_NAME": "Alice"}
APPROVE, PROMOTE = "/board/staging/approve", "/board/staging/promote"


@pytest.fixture
def where(published: Published, tmp_path: Path) -> Delivered:
    """v0.1.0 is in dev."""
    made = delivered(published, tmp_path, RULES, TRUST)
    deploy(made)
    return made


@pytest.fixture
def alice(where: Delivered) -> Iterator[Visitor]:
    with ui_server(where.project, **ALICE) as visitor:
        yield visitor


def test_what_is_decided_on_the_pages_is_what_the_commands_commit(
    where: Delivered, alice: Visitor
) -> None:
    board = alice.get("/board").text
    assert "One environment waits for somebody 1 for you, Alice <alice@example.org>" in board
    page = alice.get(APPROVE).text
    assert "Approve v0.1.0 for staging?" in page and "approvals waits 0 of 1" in page
    done = alice.decide(APPROVE, reason="looks\n good")
    assert done.status == 200 and "Done: approve app v0.1.0 for staging" in done.text
    assert where.gitops.subjects()[0] == "approve app v0.1.0 for staging"
    assert where.trailers("Reason") == ["looks good"]
    assert where.gitops.git("log", "-1", "--format=%cn %ce", "main").strip() == (
        "Alice alice@example.org"
    )
    assert "Done: promote app v0.1.0 from dev to staging" in alice.decide(PROMOTE).text
    assert where.deployed("staging") == "v0.1.0"
    assert where.trailers("Approved-By") == ["alice@example.org"]
    assert re.search(r"v0\.1\.0 soaking .* of 1 h left for production", alice.get("/board").text)
    deploy(where, "v0.2.0")
    rolled = alice.decide("/board/dev/rollback", reason="errors")
    assert "Done: roll back app to v0.1.0 in dev" in rolled.text
    assert where.deployed("dev") == "v0.1.0"
    assert where.gitops.subjects()[0] == "hold app v0.2.0 in dev"
    assert "v0.1.0 rolled back" in rolled.text and "v0.2.0 is held by Alice" in rolled.text
    assert "Done: release app v0.2.0 in dev" in alice.decide("/board/dev/release").text
    assert "Done: hold app v0.1.0 in staging" in alice.decide("/board/staging/hold").text
    assert "v0.1.0 held" in alice.get("/board").text
    assert set(where.status()) == set(RULES)  # the command reads what the pages wrote


def test_a_refusal_has_all_reasons_and_what_was_typed_stays(
    where: Delivered, alice: Visitor
) -> None:
    form, tip = alice.form(APPROVE), where.tip()
    where.run("hold", "--env", "dev", "-m", "slow").ok()
    where.run("env", "stop", "staging", "-m", "incident 7").ok()
    refused = alice.send(PROMOTE, {**form, "reason": "<b>why</b>"})
    assert refused.status == 409 and "Not done: v0.1.0 may not be promoted" in refused.text
    assert "stop: promotions to staging are stopped by n <ops@example.org>" in refused.text
    assert "hold: it is held in dev by n" in refused.text and "slow" in refused.text
    refused = alice.send(APPROVE, {**form, "reason": "<b>why</b>" * 60})
    assert refused.status == 409 and "600 characters, at most 500" in refused.text
    assert "&lt;b&gt;why" in refused.html and "<b>why" not in refused.html
    assert 'aria-invalid="true"' in refused.html and where.gitops.subjects()[2] != tip
    assert not [one for one in where.gitops.subjects() if one.startswith(("approve", "promote"))]


def test_a_canary_has_its_command_on_the_page_and_that_command_takes_it_there(
    published: Published, tmp_path: Path
) -> None:
    route = "kind: HTTPRoute\nspec:\n  rules:\n  - backendRefs:\n" + "".join(
        f"    - {{name: {name}, weight: {weight}}}\n"
        for name, weight in (("app", 100), ("app-canary", 0))
    )
    canary = (
        "canary: {weights: {httproute: route.yaml, stable: app, canary: app-canary},"
        " updates: [{kustomization: canary}], steps: [{weight: 50, hold: 100ms}]}"
    )
    where = delivered(published, tmp_path, {"dev": "", "staging": f"after: dev\n{canary}"})
    kustomization = where.gitops.show("staging/kustomization.yaml")
    where.gitops.push({"route.yaml": route, "canary/kustomization.yaml": kustomization})
    deploy(where)
    with ui_server(where.project, **ALICE) as alice:
        form = alice.form(PROMOTE)
        assert "Done: promote app v0.1.0" in alice.send(PROMOTE, form).text
        seen = alice.form("/board/dev/hold")["seen"]
        deploy(where, "v0.2.0")
        page = alice.get(PROMOTE).text
        (digest,) = re.findall(r"shipline promote --env staging (sha256:[0-9a-f]{64})", page)
        assert digest != seen and "Step by step" in page
        refused = alice.send(PROMOTE, {**form, "seen": digest})
        assert refused.status == 409 and f"promote --env staging {digest} takes" in refused.text
        where.run("promote", "--env", "staging", digest).ok()
        assert where.deployed("staging") == "v0.2.0"


def test_a_newer_digest_than_the_form_was_made_for_is_refused(
    where: Delivered, alice: Visitor
) -> None:
    approval, hold = alice.form(APPROVE), alice.form("/board/dev/hold")
    deploy(where, "v0.2.0")
    tip = where.tip()
    for path, form in ((APPROVE, approval), (PROMOTE, approval), ("/board/dev/hold", hold)):
        refused = alice.send(path, form)
        assert refused.status == 409, path
        assert "dev has v0.2.0 now, which is another image" in refused.text
    assert where.tip() == tip
    again = alice.send(APPROVE, approval)
    assert "Approve v0.2.0 for staging?" in again.text  # the new one is what is asked for now
    assert "Done: approve app v0.2.0" in alice.decide(APPROVE).text


def test_two_people_at_once_both_decide_or_one_is_told(where: Delivered, alice: Visitor) -> None:
    bob = {"GIT_COMMITTER_EMAIL": "bob@example.org", "GIT_COMMITTER_NAME": "Bob"}
    with ui_server(where.project, **bob) as other:
        forms = [(one, one.form(APPROVE)) for one in (alice, other)]
        with ThreadPoolExecutor() as pool:
            tasks = [pool.submit(one.send, APPROVE, form) for one, form in forms]
            assert [task.result().status for task in tasks] == [200, 200]
        approvals = where.gitops.git("log", "--format=%ce %s", "main").splitlines()[:2]
        assert sorted(approvals) == [
            f"{name}@example.org approve app v0.1.0 for staging" for name in ("alice", "bob")
        ]
        with ThreadPoolExecutor() as pool:
            forms = [(one, one.form(PROMOTE)) for one in (alice, other)]
            tasks = [pool.submit(one.send, PROMOTE, form) for one, form in forms]
            assert {task.result().status for task in tasks} == {200}
        assert where.gitops.subjects().count("promote app v0.1.0 from dev to staging") == 1
        again = alice.send(APPROVE, forms[0][1])
        assert again.status == 409 and "staging has v0.1.0 already" in again.text


def test_nobody_decides_without_the_form_or_the_right(where: Delivered, alice: Visitor) -> None:
    form, tip = alice.form(APPROVE), where.tip()
    assert form["seen"].startswith("sha256:")
    hostile: list[dict[str, str]] = [
        {**form, "token": ""},
        {**form, "token": form["token"][:-1]},
        {"seen": form["seen"]},
    ]
    for values in hostile:
        assert alice.send(APPROVE, values).status == 403
    assert alice.send(APPROVE, form, Origin="http://evil.example").status == 403
    assert Visitor(alice.origin).send(APPROVE, form).status == 403  # no cookie
    for seen in ("", "sha256:1", "v0.1.0", f"sha256:{'0' * 64}", form["seen"] + " x"):
        assert alice.send(APPROVE, {**form, "seen": seen}).status == 409, seen
    for path in ("/board/nowhere/approve", "/board/staging/deploy", "/board/..%2f/hold"):
        assert alice.send(path, form).status == 404, path
        assert alice.get(path).status == 404, path
    words = {**form, "back_to": "--upload-pack=x", "seen": form["seen"]}
    assert alice.send("/board/dev/rollback", words).status == 409
    with ui_server(where.project, GIT_COMMITTER_EMAIL="eve@elsewhere.example") as eve:
        assert "for you" not in eve.get("/board").text
        refused = eve.decide(APPROVE)
        assert refused.status == 409
        assert "eve@elsewhere.example is not one of *@example.org" in refused.text
    assert where.tip() == tip


def test_approvals_that_must_be_signed_are(where: Delivered, tmp_path: Path) -> None:
    text = (where.project.root / "shipline.yaml").read_text()
    signed = text.replace("by: ['*@example.org']", "signers: signers")
    where.project.write("shipline.yaml", signed)
    ssh = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(tmp_path / "id"))
    subprocess.run(ssh, check=True)
    public = (tmp_path / "id.pub").read_text()
    where.project.write("signers", f"alice@example.org {public}")
    settings = {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "gpg.format",
        "GIT_CONFIG_VALUE_0": "ssh",
        "GIT_CONFIG_KEY_1": "user.signingkey",
        "GIT_CONFIG_VALUE_1": str(tmp_path / "id"),
    }
    with ui_server(where.project, **ALICE) as unsigned:
        refused = unsigned.decide(APPROVE)
        assert refused.status == 409 and "git config gpg.format ssh" in refused.text
    with ui_server(where.project, **ALICE, **settings) as visitor:
        assert "Done: approve app v0.1.0 for staging" in visitor.decide(APPROVE).text
        assert "v0.1.0 may come" in visitor.get("/board").text


def test_a_release_says_what_is_known_of_it_and_by_whom(where: Delivered, alice: Visitor) -> None:
    where.run("approve", "--env", "staging", "-m", "fine", by="bob@example.org").ok()
    listed = alice.get("/releases")
    assert re.search(r"v0\.1\.0 dev .* v0\.2\.0 not deployed", listed.text)
    assert "No release has “nothing”" in alice.get("/releases?q=nothing").text
    link = re.findall(r'href="(/releases/sha256:[0-9a-f]+)"', listed.html)[0]
    page = alice.get(link).text
    assert "may go to staging" in page and "Promote to staging…" in page
    assert "feat: one, n <n@example.org>" in page and "linux/amd64" in page
    assert "coverage pass 90.0 %" in page and "signed by release" in page
    assert "trusted signed by release" in page and "slsaprovenance1 valid release" in page
    assert "registry here" in page
    assert re.search(r"approved for staging “fine” n <bob@example.org> .* deployed to dev", page)
    assert "feat: one" in alice.get(f"/releases/{link[-64:-52]}").text  # as people copy it
    assert alice.get("/releases/sha256:0000000").status == 404


def test_two_releases_are_compared_and_what_is_not_known_is_said(
    where: Delivered, alice: Visitor
) -> None:
    page = alice.get("/compare?from=v0.1.0&to=v0.2.0").text
    assert "v0.1.0 → v0.2.0" in page and "linux/amd64" in page
    assert "Vulnerabilities not known v0.1.0: no scan. v0.2.0: no scan." in page
    assert "Packages not known" in page and "Compare files" in page
    assert "config.Labels.org.opencontainers.image.revision" in page
    files = alice.get("/compare?from=v0.1.0&to=v0.2.0&files=1").text
    assert re.search(r"Files 1 differs .* app file 0644 .* [0-9a-f]{12}", files)
    wrong = alice.get("/compare?from=v0.1.0&to=v9")
    assert "no release is called v9" in wrong.text and 'aria-invalid="true"' in wrong.html


def test_drift_is_shown_and_then_on_the_board(where: Delivered, alice: Visitor) -> None:
    assert "as in git" in alice.get("/regions").text
    text = where.gitops.show("dev/kustomization.yaml")
    gone = re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", text)
    where.gitops.push({"dev/kustomization.yaml": gone})
    with ui_server(where.project, **ALICE) as later:
        page = later.get("/regions").text
        assert "1 differs" in page and "missing in region" in page
        board = later.get("/board").text
        assert "changed by hand" in board and "dev/kustomization.yaml differs since" in board


def test_what_cannot_be_looked_up_is_not_known_and_no_error(
    where: Delivered, alice: Visitor
) -> None:
    assert "v0.1.0 steady" in alice.get("/board").text
    link = re.findall(r'href="(/releases/sha256:[0-9a-f]+)"', alice.get("/releases").html)[0]
    where.gitops.remote.rename(where.gitops.remote.parent / "moved.git")
    page = alice.get(APPROVE)
    assert page.status == 200 and "Git could not be asked" in page.text
    board = alice.get("/board")
    assert board.status == 200 and "What stands here is as it was" in board.text
    assert "v0.1.0 steady" in board.text
    with ui_server(where.project, **ALICE) as later:
        nothing = later.get("/board")
        assert nothing.status == 200 and "What the environments have is not known" in nothing.text
    where.gitops.remote.with_name("moved.git").rename(where.gitops.remote)
    where.project.node.process.send_signal(signal.SIGSTOP)
    try:
        with ui_server(where.project, **ALICE) as later:
            page = later.get(link)
    finally:
        where.project.node.process.send_signal(signal.SIGCONT)
    assert page.status == 200 and "could not tell" in page.text
    assert page.text.count("not known no answer within 8 seconds") >= 3
    assert "deployed to dev" in page.text  # which git says


def test_without_environments_pages_say_what_would_make_them(
    published: Published, where: Delivered
) -> None:
    where.project.write("shipline.yaml", published.text)
    with ui_server(where.project) as visitor:
        assert "No environments" in visitor.get("/board").text
        assert "No environments" in visitor.get("/regions").text
        assert "v0.2.0 not deployed" in visitor.get("/releases").text
        (where.project.root / "shipline.yaml").unlink()
        assert "No environments" in visitor.get("/board").text


@pytest.fixture(scope="module")
def page() -> Iterator[Chrome]:
    with browser() as opened:
        yield opened


@pytest.mark.peers
def test_the_keyboard_approves_in_a_browser_and_an_open_board_follows(
    where: Delivered, alice: Visitor, page: Chrome
) -> None:
    page.get(alice.url)
    page.get(alice.origin + "/board")
    page.execute("getLog", {"type": "browser"})
    with navigation(page):
        page.find_element(By.CSS_SELECTOR, f'a[href="{APPROVE}"]').send_keys(Keys.ENTER)
    page.find_element(By.ID, "reason").send_keys("by keyboard")
    with navigation(page):
        page.find_element(By.ID, "reason").send_keys(Keys.ENTER)
    assert "Done: approve app v0.1.0 for staging" in page.find_element(By.TAG_NAME, "main").text
    assert where.trailers("Reason") == ["by keyboard"]
    where.run("promote", "--env", "staging").ok()
    cell = '//*[@id="env-staging"][contains(., "soaking")]'  # the driver waits for it
    assert page.find_element(By.XPATH, cell)
    assert page.execute("getLog", {"type": "browser"})["value"] == []


@pytest.mark.peers
def test_the_pages_are_for_everybody(
    where: Delivered, alice: Visitor, page: Chrome, pytestconfig: pytest.Config
) -> None:
    """Axe, 320 pixels, contrast in both schemes, Tab: see accessible_pages."""
    alice.decide(APPROVE)
    alice.decide(PROMOTE)
    deploy(where, "v0.2.0")
    listed = alice.get("/releases").html
    links = re.findall(r'href="(/releases/sha256:[0-9a-f]+)"', listed)
    paths = [
        *("/board", "/regions", "/releases", *dict.fromkeys(links), "/compare"),
        *("/compare?from=v0.1.0&to=v0.2.0&files=1", "/compare?from=v0.1.0&to=v9"),
        *(APPROVE, PROMOTE, "/board/dev/rollback", "/board/dev/hold", "/board/dev/release"),
    ]
    page.get(alice.url)
    axe = axe_script(pytestconfig.cache.mkdir("axe-1"))
    assert faults_of_pages(page, [alice.origin + path for path in paths], axe) == []
