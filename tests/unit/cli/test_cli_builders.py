"""`shipline builder`: what is listed, refused and removed, whatever lies among the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shipline.cli import builder_list, builders
from shipline.errors import BuilderError, ConfigError, UsageError

COMMANDS = {
    "create": builders.create,
    "rm": builders.rm,
    "stop": builders.stop,
    "use": builders.use_command,
    "ls": builder_list.ls,
    "inspect": builder_list.inspect,
}


@pytest.fixture
def instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILDX_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    place = tmp_path / "instances"
    place.mkdir()
    return place


def keep(place: Path, name: str, *endpoints: str, driver: str = "remote") -> None:
    nodes = [{"Name": f"{name}{n}", "Endpoint": one} for n, one in enumerate(endpoints)]
    (place / name).write_text(json.dumps({"Name": name, "Driver": driver, "Nodes": nodes}))


def run(*words: str) -> Result:
    return CliRunner().invoke(COMMANDS[words[0]], words[1:], catch_exceptions=False)


def test_one_bad_builder_hides_no_other(instances: Path) -> None:
    (instances / "damaged").write_text("[" * 100_000)
    keep(instances, "bad", "tcp://[::1", "tcp://127.0.0.1:99999999")
    keep(instances, "foreign", "x", driver="cloud")
    keep(instances, "good", f"unix://{instances}/no.sock")
    lines = run("ls").stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        *("NAME/NODE", "native*", "docker", "bad", "foreign", "good")
    ]
    assert all("inactive" in line for line in lines[5:] if line.startswith(" "))


def test_buildxs_name_for_this_machine_is_listed_as_in_use(instances: Path) -> None:
    assert run("use", "default").exit_code == 0
    assert run("ls").stdout.splitlines()[1].startswith("native* ")


def test_as_buildx_the_driver_is_docker_while_results_go_to_the_engine(
    instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def driver() -> str:
        return run("inspect").stdout.splitlines()[1].split()[1]

    assert driver() == "native"
    monkeypatch.setattr("sys.argv", ["/plugins/docker-buildx"])
    assert driver() == "docker"
    monkeypatch.setenv("BUILDX_NO_DEFAULT_LOAD", "1")
    assert driver() == "native"


def test_texts_of_files_forge_no_lines_and_show_no_passwords(instances: Path) -> None:
    keep(instances, "box", "ssh://u:PASS@h", "tcp://h\x1b]0;x\x07\nforged\x1b[31m")
    for shown in (run("ls"), run("inspect", "box"), run("ls", "--format={{.DriverEndpoint}}")):
        assert "PASS" not in shown.output and "ssh://u@h" in shown.output
    assert "\x1b" not in run("ls").output and "\nforged" not in run("ls").output
    assert "\x1b" not in run("inspect", "box").output
    assert "PASS" not in run("ls", "--format=json").output


def test_templates_have_a_line_for_each_builder_and_node(instances: Path) -> None:
    keep(instances, "farm", f"unix://{instances}/a", f"unix://{instances}/b")
    shown = run("ls", "--format", "{{.Name}} {{.DriverEndpoint}} {{.Status}}").stdout
    assert shown.splitlines()[-3:] == [
        "farm remote ",
        f"farm0 unix://{instances}/a inactive",
        f"farm1 unix://{instances}/b inactive",
    ]
    table = run("ls", "--format", r"table {{.Name}}\t{{.Status}}").stdout.splitlines()
    assert table[0].split() == ["NAME/NODE", "STATUS"]
    assert table[-1].split() == [r"\_", "farm1", "inactive"]
    document = json.loads(run("ls", "--format=json").stdout.splitlines()[-1])
    assert document["Name"] == "farm" and document["Nodes"][1]["Name"] == "farm1"
    rows = run("ls", "--format", "{{json . }}").stdout.splitlines()
    assert [json.loads(one) for one in rows[-3:]] == [document] * 3


@pytest.mark.parametrize(
    "platforms, short",
    [
        (["linux/amd64", "linux/386"], "linux/amd64, linux/386"),
        (["linux/arm64", "linux/amd64", "linux/amd64/v2"], "linux/amd64 (+2), linux/arm64"),
        (["linux/amd64*", "linux/amd64/v2"], "linux/amd64* (+2)"),
        (
            [f"linux/{one}" for one in ("a", "b", "s390x", "c", "d", "arm/v6", "arm/v7")],
            "linux/arm (+2), linux/s390x, linux/a, linux/b, (2 more)",
        ),
    ],
)
def test_platforms_are_shortened_as_in_buildx(platforms: list[str], short: str) -> None:
    assert builder_list.shortened(platforms) == short


@pytest.mark.parametrize(
    "words, error, said",
    [
        (["tcp://[::1"], UsageError, "is not a URL"),
        (["--driver=remote"], BuilderError, "not an endpoint"),
        (["http://x"], BuilderError, "cannot be used here"),
        (["tcp://h", "--driver-opt=foo=1"], UsageError, "no option 'foo'"),
        (["tcp://h", "--driver-opt=cacert=/nowhere"], UsageError, "there is no file /nowhere"),
        (["tcp://h", "--timeout=soon"], UsageError, "--timeout"),
        (["--driver-opt=memory=much"], UsageError, "not a size"),
        (["--leave"], UsageError, "change a builder"),
        (["--leave", "--name=farm"], UsageError, "--leave takes a node out"),
        (["--append", "--name=none"], UsageError, "no builder 'none' to change"),
        (["--name=docker"], UsageError, "always there"),
        (["nowhere"], BuilderError, "docker has no context 'nowhere'"),
    ],
)
def test_what_can_never_work_is_refused(
    instances: Path, words: list[str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run("create", *words)
    assert [*instances.iterdir()] == []


def test_a_context_that_is_not_there_is_named(
    instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "nope")
    assert "docker has no context 'nope'" in run("inspect", "docker").stdout
    assert run("ls").stdout.count("native") == 3


def test_each_builder_is_removed_whatever_the_others_are(instances: Path) -> None:
    keep(instances, "good", "tcp://h")
    keep(instances, "bad", "tcp://[::1")
    (instances / "damaged").write_text("{")
    (instances / "odd").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="no builder 'none' to remove"):
        run("rm", "none", "good", "bad", "damaged", "odd")
    assert [*instances.iterdir()] == []
    with pytest.raises(UsageError, match="always there"):
        run("rm", "native")
    with pytest.raises(UsageError, match="no builder 'none' to remove"):  # as buildx does
        run("rm", "--force", "none")


def test_a_full_directory_is_one_error(instances: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (instances / "file").write_text("")
    monkeypatch.setenv("BUILDX_CONFIG", str(instances / "file"))
    with pytest.raises(ConfigError, match="cannot be written"):
        run("create", "tcp://h")
