"""What docker/metadata-action 6 gives for an event and its inputs, and what is given here.

The expected values are what that action's source does (src/meta.ts, src/tag.ts, src/image.ts); the
version is that of its output and its label.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from shipline.cli.tags import enabled_images
from shipline.errors import ConfigError, UsageError
from shipline.git import Commit
from shipline.tags import (
    Decision,
    Event,
    Flavor,
    NoRuleMatches,
    Situation,
    TagEntry,
    TagRule,
    TagsSection,
    decide,
    event_from,
)

SHA = "5b0c1f2e" * 5
HEAD = "d4e5f6a7" * 5
FIRST = "v3.1.4"
PRE = "v3.2.0-rc.1"
SEMVER = "type=semver,pattern="
AUTO = Flavor()
PEP440 = "type=pep440,pattern="


@dataclass(frozen=True)
class Row:
    """Tags are those of one image, the first is the version."""

    ref: str
    entries: tuple[str, ...]
    tags: str = ""
    flavor: Flavor = AUTO
    kind: str = ""


def decided(row: Row) -> Decision:
    ref = row.ref if row.ref.startswith("refs/") else f"refs/tags/{row.ref}"
    told = Event.of(ref, row.kind)
    event = Event(
        told.kind,
        told.ref,
        number=told.number,
        head=HEAD if told.number else "",
        base="trunk",
        default_branch="trunk",
    )
    section = TagsSection(rules=(TagRule(row.entries),), unique_names=False, flavor=row.flavor)
    return decide(section, Situation(event, Commit(SHA, time=1_700_000_000), now=1_700_000_000))


ROWS = (
    # Only the entry of highest priority decides on latest.
    Row(FIRST, (f"{SEMVER}{{{{version}}}}", "type=sha"), "3.1.4 sha-5b0c1f2 latest"),
    Row(FIRST, ("type=raw,stable,priority=1001", f"{SEMVER}{{{{version}}}}"), "stable 3.1.4"),
    Row(FIRST, ("type=raw,priority=950,x", "type=ref,event=tag", "type=edge"), f"x {FIRST}"),
    Row(FIRST, ("type=sha,priority=901", f"{SEMVER}v{{{{major}}}}"), "sha-5b0c1f2 v3"),
    Row(FIRST, ("type=sha,priority=601", "type=ref,event=tag"), f"sha-5b0c1f2 {FIRST}"),
    Row(PRE, (f"{SEMVER}{{{{version}}}}", r"type=match,pattern=\d.\d"), "3.2.0-rc.1 3.2"),
    Row(PRE, (r"type=match,pattern=\d.\d", "type=ref,event=tag"), f"3.2 {PRE} latest"),
    Row(PRE, (f"{SEMVER}{{{{version}}}}", "type=ref,event=tag"), f"3.2.0-rc.1 {PRE}"),
    Row("word", (f"{SEMVER}{{{{version}}}}", "type=ref,event=tag"), "word latest"),
    Row(FIRST, ("type=raw,{{branch}},priority=2000", "type=ref,event=tag"), f"{FIRST} latest"),
    # A prerelease is its whole version, whatever is around it in the pattern.
    Row(PRE, (f"{SEMVER}v{{{{version}}}}",), "3.2.0-rc.1"),
    Row(PRE, (f"{SEMVER}{{{{ raw }}}}",), PRE),
    Row(PRE, (f"{SEMVER}x-{{{{raw}}}}",), "3.2.0-rc.1"),
    Row(PRE, (f"{SEMVER}{{{{major}}}}", f"{SEMVER}{{{{minor}}}}"), "3.2.0-rc.1"),
    Row("v3.2.0+b.5", (f"{SEMVER}{{{{version}}}}", f"{SEMVER}{{{{raw}}}}"),
        "3.2.0 v3.2.0-b.5 latest"),
    Row("1.4rc2", (f"{PEP440}v{{{{version}}}}",), "1.4rc2"),
    Row("1.4-beta.2", (f"{PEP440}{{{{version}}}}", f"{PEP440}{{{{raw}}}}"), "1.4b2 1.4-beta.2"),
    Row("1.4.post3", (f"{PEP440}{{{{major}}}}",), "1.4.post3"),
    Row("v1.4", (f"{PEP440}{{{{major}}}}.{{{{minor}}}}.{{{{patch}}}}",), "1.4.0 latest"),
    # A version is one v at most, and the whole name.
    Row("vv3.1.4", (f"{SEMVER}{{{{version}}}}", "type=ref,event=tag"), "vv3.1.4 latest"),
    Row("app/v3.1.4", (f"{SEMVER}{{{{version}}}}", "type=ref,event=tag"), "app-v3.1.4 latest"),
    # type=match sees the whole name, with its slashes.
    Row("app/v3.1.4", (r"type=match,pattern=app/v(\d.\d.\d),group=1",), "3.1.4 latest"),
    Row("app/v3.1.4", (r"type=match,pattern=app-v(.*),group=1", "type=sha"), "sha-5b0c1f2"),
    Row("app/v3.1.4", (r"type=match,pattern=[^/]+$", r"type=match,pattern=\d\.\d"),
        "v3.1.4 3.1 latest"),
    Row("app/v3.1.4", ("type=match,pattern=app/v(.),group=2", "type=sha"), "sha-5b0c1f2"),
    Row("app/v3.1.4", (r"type=match,pattern=/APP/v(?<n>\d)/i,group=1",), "3 latest"),
    Row("v3.1.4", ("type=match,pattern=v(x)?,group=1", "type=sha"), "sha-5b0c1f2"),
    # match= on semver and pep440.
    Row("app/v3.1.4", (f"{SEMVER}{{{{version}}}},match=app/v(.*)",), "3.1.4 latest"),
    Row("app/v3.1.4", (f"{SEMVER}{{{{major}}}}.{{{{minor}}}},match=app/(.*)",), "3.1 latest"),
    Row("app/v3.1.4", (f"{SEMVER}{{{{raw}}}},match=app/(.*)",), "v3.1.4 latest"),
    Row("app-3.2.0-rc.1", (f"{SEMVER}{{{{major}}}},match=app-(.*)",), "3.2.0-rc.1"),
    Row("v3.1.4", (f"{SEMVER}{{{{version}}}},match=app/(.*)",), "3.1.4 latest"),
    Row("app/v3.1.4", (f"{SEMVER}{{{{version}}}},match=lib/(.*)", "type=sha"), "sha-5b0c1f2"),
    Row("app/1.4rc2", (f"{PEP440}{{{{major}}}},match=app/(.*)",), "1.4rc2"),
    Row("x", (f"{SEMVER}{{{{version}}}},value=lib-v2.0.1,match=lib-(.*)",), "2.0.1 latest"),
    # Flavors, prefixes and suffixes.
    Row(FIRST, (f"{SEMVER}{{{{version}}}}", "type=sha"), "a-3.1.4-z sha-5b0c1f2-z latest",
        Flavor(prefix="a-", suffix="-z")),
    Row(FIRST, (f"{SEMVER}{{{{version}}}},prefix=,suffix=",), "3.1.4 a-latest-z",
        Flavor(prefix="a-", suffix="-z", prefix_latest=True, suffix_latest=True)),
    Row("refs/pull/15/merge", ("type=ref,event=pr",), "pr-15-z", Flavor(prefix="a-", suffix="-z")),
    Row("refs/pull/15/merge", ("type=ref,event=pr,prefix=",), "15"),
    Row("refs/heads/dev", ("type=sha",), "sha-5b0c1f2 latest", Flavor(latest="true")),
    Row(PRE, ("type=ref,event=tag",), PRE, Flavor(latest="false")),
    # The default branch.
    Row("refs/heads/trunk", ("type=raw,latest,enable={{is_default_branch}}", "type=sha"),
        "latest sha-5b0c1f2"),
    Row("refs/heads/dev", ("type=raw,latest,enable={{is_default_branch}}", "type=sha"),
        "sha-5b0c1f2"),
    Row(FIRST, ("type=raw,x,enable={{is_default_branch}}", "type=sha"), "sha-5b0c1f2"),
    Row("refs/heads/trunk", ("type=raw,x,enable={{is_default_branch}}", "type=schedule"),
        "nightly x", kind="schedule"),
    Row("refs/heads/trunk", ("type=edge", "type=ref,event=branch"), "edge trunk", kind="schedule"),
    Row("refs/heads/trunk", ("type=edge",), "edge"),
    Row("refs/heads/dev", ("type=edge", "type=ref,event=branch"), "dev"),
    # base_ref is of tags and pull requests alone.
    Row(FIRST, ("type=raw,{{tag}}-{{sha}}", "type=raw,{{base_ref}}-x"), f"{FIRST}-5b0c1f2 trunk-x"),
    Row("refs/pull/15/merge", ("type=raw,x-{{base_ref}}",), "x-trunk"),
    Row("refs/heads/dev", ("type=raw,x-{{base_ref}}",), "x-"),
    # Keys have any order and case; without a type it is raw.
    Row(FIRST, ("pattern={{version}},TYPE=semver", "Priority=1000, type=ref,event=tag"),
        f"{FIRST} 3.1.4 latest"),
    Row("refs/heads/dev", ("{{branch}}-x", "value=y", "z,priority=300"), "z dev-x y"),
    Row("refs/heads/dev", ("{{branch}}",), "a-dev", Flavor(prefix="a-")),
    # Only a format in quotes is one.
    Row("refs/heads/dev", ("type=raw,{{commit_date YYYY-MM-DD}}",), "2023-11-14T22-13-20Z"),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.ref} {' '.join(row.entries)}")
def test_tags_and_version_are_those_of_metadata_action(row: Row) -> None:
    found = decided(row)
    assert " ".join(found.names) == row.tags
    assert found.called == found.names[0]
    assert found.labels["org.opencontainers.image.version"] == found.called


@pytest.mark.parametrize(
    "entries",
    [("type=raw,{{branch}}",), ("type=match,pattern=nothing",), (f"{SEMVER}{{{{version}}}}",)],
)
def test_what_gives_no_tag_there_is_an_error_here(entries: tuple[str, ...]) -> None:
    with pytest.raises(NoRuleMatches):
        decided(Row("word", entries))


@pytest.mark.parametrize("text", ["v{version},priority=5", "{{branch}}-{sha}", "{sha},type"])
def test_fields_of_templates_are_not_mixed_with_entries(text: str) -> None:
    with pytest.raises(ConfigError, match="besides its fields"):
        TagEntry.read(text)


def test_a_version_of_our_own_is_the_label_whatever_the_first_tag_is() -> None:
    rule = TagRule((f"{SEMVER}{{{{major}}}}",), version="conventional")
    event = Event.of("refs/tags/v3.1.4")
    found = decide(TagsSection(rules=(rule,)), Situation(event, Commit(SHA, time=1)))
    assert (found.names, found.called) == (("3", "latest"), "3.1.4")


@pytest.mark.parametrize(
    "text",
    [
        "type=semver,pattern={{version}},match=app/v.*",
        "type=semver,pattern={{version}},match=(",
        "type=raw,x,match=(x)",
    ],
)
def test_a_match_that_cannot_find_a_version_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="match"):
        TagEntry.read(text)


@pytest.mark.parametrize("name", ["schedule", "issues", "issue_comment", "discussion"])
def test_events_of_the_default_branch_know_it_without_a_payload(name: str) -> None:
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": name,
        "GITHUB_REF": "refs/heads/trunk",
    }
    assert event_from(environ).default_branch == ("" if name == "issue_comment" else "trunk")


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["name/app", "ghcr.io/Name/App"], ["name/app", "ghcr.io/name/app"]),
        (["name/app,ghcr.io/name/app"], ["name/app", "ghcr.io/name/app"]),
        (["name=GHCR.io/x/y"], ["ghcr.io/x/y"]),
        (["name=a/b,enable=false\nname=c/d,enable=true"], ["c/d"]),
        (["# a comment\n\n  a/b  \n"], ["a/b"]),
        (["c/d,enable=false"], []),
    ],
)
def test_images_are_read_as_metadata_action_reads_them(texts: list[str], names: list[str]) -> None:
    assert enabled_images(texts) == names


@pytest.mark.parametrize("text", ["name=a/b,enable=maybe", "enable=true", "name=a/b,tag=x"])
def test_an_image_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--image"):
        enabled_images([text])
