"""Accounts: changes take effect at once and are durable, secrets are checked, guessing is
throttled.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from commands import Forked
from shipline.errors import UsageError
from shipline.server.access.accounts import Permission, RobotAccess, RobotOptions
from shipline.server.access.administration import Administration
from shipline.server.access.audit import Audit, read_audit
from shipline.server.access.login import (
    Logins,
    Throttle,
    generate_secret,
    hash_password,
    same_password,
)
from shipline.server.access.rights import allowed
from shipline.server.access.store import AccountStore
from shipline.server.access.tokens import issue_refresh, refresh_tokens, subject_of
from shipline.server.events import NodeEvent
from shipline.server.problems import Problem
from shipline.values import replace

pytestmark = pytest.mark.usefixtures("cheap_hashes")
HERE = "192.0.2.7"
PULL = (Permission("*", (RobotAccess("repository", "pull"),)),)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path, clock: Clock) -> AccountStore:
    return AccountStore(tmp_path, clock=clock)


@pytest.fixture
def events() -> list[NodeEvent]:
    return []


@pytest.fixture
def accounts(directory: AccountStore, events: list[NodeEvent]) -> Administration:
    return Administration(directory, actor="test", publish=events.append)


@pytest.fixture
def logins(directory: AccountStore, events: list[NodeEvent]) -> Logins:
    return Logins(directory, events.append)


def add_projects(data: Path, *names: str) -> None:
    directory = AccountStore(data)
    for name in names:
        Administration(directory, actor="x").add_project(name)
    directory.close()


def refused(logins: Logins, name: str, secret: str, address: str = HERE) -> int:
    with pytest.raises(Problem) as caught:
        logins.check(name, secret, address)
    return caught.value.status


def test_a_password_is_kept_as_a_hash_of_its_own() -> None:
    first, second = hash_password("correct horse"), hash_password("correct horse")
    assert first != second and "horse" not in first
    assert same_password("correct horse", first) and not same_password("Correct horse", first)
    assert not same_password("", "") and not same_password("x", "plain")


def test_a_guess_costs_32_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert hash_password("correct horse").startswith("scrypt$15$8$1$")


def test_every_secret_is_another_one() -> None:
    assert len({generate_secret() for _ in range(100)}) == 100


def test_another_process_is_noticed_at_once(directory: AccountStore, tmp_path: Path) -> None:
    for number in range(3):
        names = [f"p{number}", f"q{number}"]
        assert Forked(add_projects, tmp_path, *names).wait(60) == 0
        assert set(names) <= directory.view().projects.keys()
    view = directory.view()
    time.sleep(0.05)
    assert directory.view() is view


def test_changes_of_two_processes_do_not_lose_each_other(
    directory: AccountStore, accounts: Administration, tmp_path: Path
) -> None:
    names = [f"theirs{number}" for number in range(20)]
    other = Forked(add_projects, tmp_path, *names)
    for number in range(20):
        accounts.add_project(f"ours{number}")
    assert other.wait(60) == 0
    view = directory.view()
    assert len(view.projects) == 40
    assert len({project.id for project in view.projects.values()}) == 40


def test_a_change_that_fails_changes_nothing(accounts: Administration) -> None:
    accounts.add_user("bob", "password 1")
    with pytest.raises(UsageError, match="already"):
        accounts.add_user("bob", "password 2")
    with pytest.raises(UsageError, match="characters"):
        accounts.add_user("eve", "short")
    with pytest.raises(UsageError, match="no such project"):
        accounts.set_member("nowhere", "bob", "guest")
    assert set(accounts.view.users) == {"bob"}


def test_somebody_always_administers(accounts: Administration) -> None:
    accounts.add_user("root", "password 1", admin=True)
    for change in ({"admin": False}, {"disabled": True}):
        with pytest.raises(UsageError, match="last administrator"):
            accounts.set_user("root", **change)
    with pytest.raises(UsageError, match="last administrator"):
        accounts.remove_user("root")
    accounts.add_user("second", "password 1", admin=True)
    accounts.remove_user("root")


def test_a_password_works_until_it_is_changed(accounts: Administration, logins: Logins) -> None:
    accounts.add_user("bob", "password 1")
    for _ in range(3):
        assert logins.check("bob", "password 1", HERE).login == "bob"
    accounts.set_password("bob", "password 2")
    assert refused(logins, "bob", "password 1") == 401
    assert logins.check("bob", "password 2", HERE).login == "bob"
    accounts.set_user("bob", disabled=True)
    assert refused(logins, "bob", "password 2") == 401


def test_another_secret_is_another_stamp(accounts: Administration, directory: AccountStore) -> None:
    accounts.add_user("bob", "password 1")
    robot, _ = accounts.add_robot(RobotOptions("ci", permissions=PULL))
    names = ("bob", robot.login)

    def stamps() -> list[str]:
        return [account.stamp for name in names if (account := directory.view().account(name))]

    before = stamps()
    accounts.set_user("bob", admin=True)
    assert stamps() == before
    accounts.set_password("bob", "password 1")
    accounts.rotate_robot(robot.id)
    assert len({*before, *stamps()}) == 4


def test_a_right_password_is_hashed_once(
    accounts: Administration, logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.add_user("bob", "password 1")
    hashed: list[str] = []

    def counted(password: str, stored: str) -> bool:
        hashed.append(stored)
        return same_password(password, stored)

    monkeypatch.setattr("shipline.server.access.login.same_password", counted)
    for _ in range(100):
        assert logins.check("bob", "password 1", HERE).login == "bob"
    assert len(hashed) == 1


def test_two_secrets_are_valid_while_they_overlap(
    accounts: Administration, logins: Logins, clock: Clock
) -> None:
    robot, old = accounts.add_robot(RobotOptions("ci", permissions=PULL))
    new = accounts.rotate_robot(robot.id, overlap_s=60)
    for secret in (old, new):
        assert logins.check(robot.login, secret, HERE).login == robot.login
    clock.now += 61
    assert refused(logins, robot.login, old) == 401
    newest = accounts.rotate_robot(robot.id)
    assert refused(logins, robot.login, new) == 401
    assert logins.check(robot.login, newest, HERE).login == robot.login


def test_a_robot_ends_is_disabled_and_comes_from_its_network(
    accounts: Administration, logins: Logins, clock: Clock
) -> None:
    options = RobotOptions(
        "ci", permissions=PULL, duration=1, networks=("192.0.2.0/24", "2001:db8::/32")
    )
    robot, secret = accounts.add_robot(options)
    for address in (HERE, "2001:db8::1", "::ffff:192.0.2.9"):
        assert logins.check(robot.login, secret, address)
    for address in ("198.51.100.1", "::1", "", "nonsense"):
        assert refused(logins, robot.login, secret, address) == 401
    clock.now += 86_401
    assert refused(logins, robot.login, secret, "192.0.2.8") == 401
    accounts.set_robot(robot.id, RobotOptions("ci", permissions=PULL, duration=3))
    assert logins.check(robot.login, secret, "203.0.113.5")
    accounts.set_robot(robot.id, RobotOptions("ci", permissions=PULL, disabled=True))
    assert refused(logins, robot.login, secret, "203.0.113.6") == 401


def test_guessing_gets_slow_and_is_forgotten(
    accounts: Administration, logins: Logins, clock: Clock
) -> None:
    accounts.add_user("bob", "password 1")
    statuses = [refused(logins, "bob", f"guess {number}") for number in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    assert refused(logins, "bob", "password 1") == 429
    assert logins.check("bob", "password 1", "198.51.100.9").login == "bob"  # the owner, elsewhere
    clock.now += 1000
    assert logins.check("bob", "password 1", HERE).login == "bob"


def test_a_stranger_does_not_lock_out_an_owner_where_he_was_before(
    accounts: Administration, logins: Logins, clock: Clock
) -> None:
    accounts.add_user("bob", "password 1")
    logins.check("bob", "password 1", HERE)
    for number in range(75):
        refused(logins, "bob", f"guess {number}", f"198.51.100.{number // 5}")
    assert refused(logins, "bob", "password 1", "203.0.113.1") == 429
    accounts.add_user("eve", "password 2")  # nothing is cached any more
    assert logins.check("bob", "password 1", HERE).login == "bob"
    assert [refused(logins, "bob", "guess") for _ in range(6)] == [401] * 5 + [429]


def test_a_clock_that_was_set_back_locks_nobody_out(
    accounts: Administration, logins: Logins, clock: Clock
) -> None:
    accounts.add_user("bob", "password 1")
    assert [refused(logins, "bob", "guess") for _ in range(6)] == [401] * 5 + [429]
    clock.now -= 86_400
    assert [refused(logins, "bob", "guess") for _ in range(2)] == [401, 429]
    clock.now += 10
    assert logins.check("bob", "password 1", HERE).login == "bob"


def test_guesses_do_not_lock_out_a_robot(accounts: Administration, logins: Logins) -> None:
    robot, secret = accounts.add_robot(RobotOptions("ci", permissions=PULL))
    for number in range(75):
        refused(logins, robot.login, "guess", f"198.51.100.{number // 5}")
    assert [refused(logins, robot.login, "guess") for _ in range(2)] == [429, 429]
    assert logins.check(robot.login, secret, HERE).login == robot.login


def test_one_address_cannot_try_every_account(logins: Logins, accounts: Administration) -> None:
    accounts.add_user("bob", "password 1")
    throttle = Throttle(lambda: 0.0)
    for number in range(40):
        throttle.failed(f"user{number}", HERE)
    assert throttle.wait_s("somebody", HERE) > 0
    assert throttle.wait_s("somebody", "198.51.100.1") == 0


def test_guesses_side_by_side_are_counted_each(
    accounts: Administration, logins: Logins, events: list[NodeEvent]
) -> None:
    accounts.add_user("bob", "password 1")
    threads = [
        threading.Thread(target=refused, args=(logins, "bob", f"guess {number}"))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = [event for event in events if event.message == "refused: wrong secret"]
    assert len(wrong) == 5


def test_a_refresh_token_has_one_subject_and_one_audience(
    accounts: Administration, directory: AccountStore, clock: Clock
) -> None:
    bob = accounts.add_user("bob", "password 1")
    token = issue_refresh(directory, bob, "us", "docker", 3600)
    assert subject_of(directory, token, "us") == "bob"
    assert subject_of(directory, token, "them") is None
    assert subject_of(directory, "eve." + token.partition(".")[2], "us") is None
    assert token not in json.dumps([one.digest for one in refresh_tokens(directory)])
    clock.now += 3601
    assert subject_of(directory, token, "us") is None


@pytest.mark.parametrize("change", ["password", "disable", "remove", "revoke"])
def test_refresh_tokens_end_with_what_they_stand_for(
    accounts: Administration, directory: AccountStore, change: str
) -> None:
    bob = accounts.add_user("bob", "password 1")
    token = issue_refresh(directory, bob, "us", "docker", 3600)
    match change:
        case "password":
            accounts.set_password("bob", "password 2")
        case "disable":
            accounts.set_user("bob", disabled=True)
        case "remove":
            accounts.remove_user("bob")
        case _:
            assert accounts.revoke("bob") == 1
    assert subject_of(directory, token, "us") is None


@pytest.mark.parametrize("again", [False, True])
def test_a_refresh_token_that_is_issued_too_late_is_good_for_nothing(
    accounts: Administration, directory: AccountStore, again: bool
) -> None:
    """The password was right a moment ago; then it was changed, or the account made again."""
    bob = accounts.add_user("bob", "password 1")
    if again:
        accounts.remove_user("bob")
        accounts.add_user("bob", "password 1")
    else:
        accounts.set_password("bob", "password 2")
    assert subject_of(directory, issue_refresh(directory, bob, "us", "docker", 60), "us") is None


def test_refresh_tokens_of_one_account_are_bounded(
    accounts: Administration, directory: AccountStore, clock: Clock
) -> None:
    bob = accounts.add_user("bob", "password 1")
    tokens = []
    for _ in range(55):
        clock.now += 1
        tokens.append(issue_refresh(directory, bob, "us", "docker", 3600))
    assert len(refresh_tokens(directory, "bob")) == 50
    assert subject_of(directory, tokens[0], "us") is None
    assert subject_of(directory, tokens[-1], "us") == "bob"


def test_a_removed_project_takes_its_robots_along(accounts: Administration) -> None:
    accounts.add_project("p")
    mine = (Permission("p", PULL[0].access),)
    accounts.add_robot(RobotOptions("ci", "p", mine))
    accounts.add_robot(RobotOptions("ci", "", PULL))
    accounts.remove_project("p")
    assert [robot.login for robot in accounts.view.robots.values()] == ["robot$ci"]


def test_the_audit_log_is_bounded_and_in_order(tmp_path: Path) -> None:
    audit = Audit(tmp_path, size=4096, files=3)
    for number in range(200):
        audit.on_event(NodeEvent("push", "repo", message=str(number), address=HERE, actor="bob"))
    files = list((tmp_path / "access").glob("audit.jsonl*"))
    assert len(files) <= 3 and sum(file.stat().st_size for file in files) < 3 * 5000
    numbers = [int(line["message"]) for line in read_audit(tmp_path)]
    assert numbers == list(range(numbers[0], 200)) and len(numbers) > 40
    assert [line["message"] for line in read_audit(tmp_path, last=2)] == ["198", "199"]


def test_what_was_private_stays_private_without_its_project(accounts: Administration) -> None:
    bob, admin = accounts.add_user("bob", "password 1"), accounts.add_user("a", "password 2")
    admin = replace(admin, admin=True)
    accounts.add_project("pub/secret")
    accounts.set_member("pub/secret", "bob", "developer")
    accounts.remove_project("pub/secret")
    accounts.add_project("pub", public=True)
    accounts.set_member("pub", "bob", "maintainer")
    view = accounts.view
    assert allowed(view, None, "pull", "pub/app") and allowed(view, bob, "push", "pub/app")
    assert allowed(view, admin, "pull", "pub/secret/app")
    assert not any(allowed(view, who, "pull", "pub/secret/app") for who in (None, bob))
    assert list(view.projects) == ["pub"]
    accounts.add_project("pub/secret", public=True)
    assert allowed(accounts.view, None, "pull", "pub/secret/app")


def test_unauthenticated_clients_cannot_rotate_the_audit_log_away(tmp_path: Path) -> None:
    audit = Audit(tmp_path, size=16 << 10, files=3)
    audit.on_event(NodeEvent("account", actor="admin", message="user eve added", at=1000.0))
    for number in range(10_000):
        at = 1000 + number / 100  # 100 s
        path = f"POST /v2/{number}/" + "x" * 3000
        audit.on_event(NodeEvent("refused", actor="anonymous", address=HERE, message=path, at=at))
        audit.on_event(
            NodeEvent("login", actor=f"a{number}", address=HERE, message="refused: x", at=at)
        )
        place = f"192.0.2.{number % 200}"
        audit.on_event(NodeEvent("refused", actor="bob", address=place, message=path, at=at))
    audit.on_event(NodeEvent("push", "team/app", actor="bob", at=1200.0))
    lines = list(read_audit(tmp_path))
    assert lines[0]["message"] == "user eve added" and lines[-1]["kind"] == "push"
    assert len(lines) < 60
    told = [line["message"] for line in lines[1:-1]]
    sums = [int(text.split()[0]) for text in told if " more within " in text]
    assert len(sums) == 6 and sum(sums) + len(told) - len(sums) == 30_000
    assert any(f"most from {HERE} (" in text for text in told)


def test_the_audit_log_survives_what_clients_write(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    audit.on_event(
        NodeEvent("login", actor='a"\n{"kind":"push"}\x1b[31m' + "x" * 5000, message="refused")
    )
    audit.on_event(NodeEvent("pull", "repo"))
    lines = (tmp_path / "access" / "audit.jsonl").read_bytes().splitlines()
    assert len(lines) == 1 and len(lines[0]) < 1500 and b"\x1b" not in lines[0]


def test_account_changes_are_published_without_secrets(
    accounts: Administration, events: list[NodeEvent]
) -> None:
    accounts.add_user("bob", "password 1")
    robot, secret = accounts.add_robot(RobotOptions("ci", permissions=PULL))
    new = accounts.rotate_robot(robot.id)
    told = " ".join(event.message for event in events)
    assert len(events) == 3
    for word in ("password 1", secret, new):
        assert word not in told


def test_time_does_not_tell_which_robots_exist(
    accounts: Administration, logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind of an account is in its name: it decides how long a wrong secret takes."""
    robot, _ = accounts.add_robot(RobotOptions("ci", permissions=PULL))
    accounts.add_user("bob", "password 1")
    hashed: list[str] = []

    def hashes(password: str, kept: str) -> bool:
        hashed.append(kept)
        return False

    monkeypatch.setattr("shipline.server.access.login.same_password", hashes)
    for name, kept in (("robot$nobody", 0), (robot.login, 0), ("nobody", 1), ("bob", 1)):
        hashed.clear()
        assert refused(logins, name, "wrong", f"192.0.2.{len(name)}") == 401
        assert len(hashed) == kept, name


def test_who_tries_on_does_not_fill_the_audit_log(
    accounts: Administration, logins: Logins, events: list[NodeEvent], clock: Clock
) -> None:
    accounts.add_user("bob", "password 1")
    for number in range(50):
        refused(logins, "bob", f"guess {number}")
        refused(logins, f"robot${number}", "guess")
    before = len(events)
    for number in range(50):
        assert refused(logins, "bob", f"guess {number}") == 429
        assert refused(logins, f"robot$new{number}", "guess") == 429
    assert len(events) <= before + 1
    clock.now += 100
    assert refused(logins, "bob", "guess") == 401
    before = len(events)
    assert refused(logins, "bob", "guess") == 429
    assert len(events) == before + 1


def test_a_name_that_nobody_has_is_not_remembered(logins: Logins) -> None:
    assert refused(logins, "x" * 100_000, "guess") == 401
    assert all(len(key[1]) < 1000 for key in logins._throttle._failures)


def test_logins_at_once_leave_threads_for_others(
    logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Semaphore(0), threading.Event()

    def slow(secret: str, kept: str) -> bool:
        entered.release()
        return bool(go_on.wait(60)) and False

    monkeypatch.setattr("shipline.server.access.login.same_password", slow)
    monkeypatch.setattr(logins, "_waiting", threading.BoundedSemaphore(1))
    first = threading.Thread(target=refused, args=(logins, "bob", "guess"))
    first.start()
    entered.acquire()
    assert refused(logins, "eve", "guess", "198.51.100.1") == 429
    go_on.set()
    first.join()
    assert refused(logins, "eve", "guess", "198.51.100.1") == 401
