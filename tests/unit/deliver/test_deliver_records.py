"""What commits of a GitOps repository say of an environment, written and read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commits import Work, with_remote
from shipline.deliver.gitops import (
    RECORDS,
    Action,
    Deployment,
    HandEdit,
    Update,
    history,
    record,
    with_hand_edits,
)
from shipline.git import BranchRewritten, Commit, RemoteBranch, remote_branch
from shipline.oci import Reference

_LETTERS = st.characters(min_codepoint=33, max_codepoint=0x24F).filter(lambda one: one.strip())
WORDS = st.text(_LETTERS, min_size=1, max_size=20)
IMAGE = Reference.parse(f"registry.example/team/app:1.2@sha256:{'ab' * 32}")
OLD = Reference.parse(f"registry.example/team/app@sha256:{'cd' * 32}")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Work, RemoteBranch]]:
    work, remote = with_remote(tmp_path)
    with remote_branch(tmp_path / "kept", work.environ, str(remote), "main") as branch:
        yield work, branch


def said(action: Action, environment: str = "staging") -> Deployment:
    return Deployment(environment, "app", (IMAGE,), action=action, source="dev")


@pytest.mark.slow
@given(
    st.builds(
        Deployment,
        environment=WORDS,
        app=WORDS,
        images=st.just((IMAGE, OLD)),
        previous=st.sampled_from([(), (OLD,)]),
        commit=WORDS,
        gates=st.dictionaries(WORDS.filter(lambda text: "=" not in text), WORDS),
        run=WORDS,
        trace=WORDS,
        action=st.sampled_from(Action),
        author=WORDS,
        source=WORDS,
        approved_by=st.lists(WORDS).map(tuple),
        reason=WORDS,
        verdict=WORDS,
        weight=st.none() | st.integers(0, 100),
        step=WORDS,
    )
)
def test_what_a_message_says_is_read_back(deployment: Deployment) -> None:
    assert Deployment.of(Commit("", message=deployment.message)) == deployment


def test_a_line_break_in_a_value_makes_no_trailer() -> None:
    text = "broken\nShipline-Action: release\n\nShipline-App: other"
    made = Deployment("staging", "app", (IMAGE,), action=Action.HOLD, reason=text)
    read = Deployment.of(Commit("", message=made.message))
    assert read and (read.action, read.app) == (Action.HOLD, "app")


@pytest.mark.parametrize(
    "trailer",
    [
        "Shipline-Action: unknown",
        "Shipline-Image: not an image",
        "Shipline-Action: weight\nShipline-Weight: x",
        "",
    ],
)
def test_what_cannot_be_read_says_nothing(trailer: str) -> None:
    message = f"by hand\n\nShipline-App: app\nShipline-Environment: staging\n{trailer}\n"
    assert Deployment.of(Commit("", message=message)) is None


@pytest.mark.parametrize("proposed", [False, True])
def test_a_record_changes_no_file_and_is_read_back(
    pair: tuple[Work, RemoteBranch], proposed: bool
) -> None:
    branch = pair[1]
    before = branch.fetch()
    seen: list[int] = []

    def make(known: Sequence[Deployment]) -> Deployment:
        seen.append(len(known))
        return said(Action.HOLD if not known else Action.RELEASE)

    for _ in range(2):
        assert record(branch, "app", make, proposed=proposed)
    tip = branch.fetch(RECORDS)
    assert seen == [0, 1]
    assert (tip == before) is proposed
    read = history(branch, tip, "app")
    assert [one.action for one in read] == [Action.RELEASE, Action.HOLD]
    assert read[0].by == "A U Thor <author@example.org>" and read[0].time
    assert history(branch, tip, "app", "production") == history(branch, tip, "other") == []
    assert branch.files(read[0].id) == branch.files(before)


@pytest.mark.parametrize("proposed", [False, True])
def test_where_another_was_first_it_is_decided_again(
    pair: tuple[Work, RemoteBranch], tmp_path: Path, proposed: bool
) -> None:
    work, branch = pair
    asked: list[int] = []

    def make(known: Sequence[Deployment]) -> Deployment | None:
        asked.append(len(known))
        if len(asked) == 1:  # somebody else pushes after our fetch
            with remote_branch(tmp_path / "theirs", work.environ, branch.url, "main") as theirs:
                record(theirs, "app", lambda _: said(Action.STOP), proposed=proposed)
        return None if known else said(Action.HOLD)

    assert record(branch, "app", make, proposed=proposed) is None
    assert asked == [0, 1]


def test_order_is_that_of_the_history_whatever_the_clocks_say(
    pair: tuple[Work, RemoteBranch],
) -> None:
    work, branch = pair
    for minutes, action in ((9000, Action.HOLD), (10, Action.RELEASE), (5000, Action.STOP)):
        work.minutes = minutes
        work.commit(said(action).message)
        work.git("push", "-q", "origin", "HEAD:main")
    read = history(branch, branch.fetch(RECORDS), "app")
    assert [one.action for one in read] == [Action.STOP, Action.RELEASE, Action.HOLD]


def test_a_branch_that_lost_commits_is_an_error_once(pair: tuple[Work, RemoteBranch]) -> None:
    work, branch = pair
    first = branch.fetch(RECORDS)
    held = record(branch, "app", lambda commits: said(Action.HOLD))
    assert held is not None
    assert branch.fetch(RECORDS) == held.id
    Work(Path(branch.url), environ=work.environ).git("update-ref", "refs/heads/main", first)
    with pytest.raises(BranchRewritten, match=held.id[:12]):
        record(branch, "app", lambda commits: said(Action.RELEASE))
    assert branch.fetch(RECORDS) == first


def test_records_that_went_are_an_error_once(pair: tuple[Work, RemoteBranch]) -> None:
    work, branch = pair
    held = record(branch, "app", lambda commits: said(Action.HOLD), proposed=True)
    assert held is not None
    branch.fetch(RECORDS)
    Work(Path(branch.url), environ=work.environ).git("update-ref", "-d", f"refs/heads/{RECORDS}")
    with pytest.raises(BranchRewritten, match="shipline/records: its history was rewritten"):
        branch.fetch(RECORDS)
    assert history(branch, branch.fetch(RECORDS), "app") == []


@pytest.mark.parametrize("directory", ["staging", "s[1]"])
def test_commits_that_changed_an_image_by_hand_are_between_the_others(
    pair: tuple[Work, RemoteBranch], directory: str
) -> None:
    work, branch = pair
    file = work.path / directory / "kustomization.yaml"
    file.parent.mkdir()

    def put(image: Reference, message: str, note: str = "") -> None:
        entry = f"{{name: {image.name}, newTag: '{image.tag}', digest: '{image.digest}'}}"
        file.write_text(f"images: [{entry}]\n{note}")
        work.git("add", "-A")
        work.git("commit", "-qm", message)

    for image, message in [(OLD, "before"), (IMAGE, said(Action.DEPLOY).message), (OLD, "edit")]:
        put(image, message)
    put(IMAGE, said(Action.DEPLOY).message)
    put(IMAGE, "a note", "# changes no image\n")
    work.git("push", "-q", "origin", "HEAD:main")
    commits = history(branch, branch.fetch(RECORDS), "app")
    places = (Update(kustomization=directory),)
    first, edit, last = with_hand_edits(branch, places, {"": IMAGE}, commits)
    assert [first, last] == commits
    assert isinstance(edit, HandEdit) and edit.reason == "edit"
    assert str(OLD.digest) in edit.subject
