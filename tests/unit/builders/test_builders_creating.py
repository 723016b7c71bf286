"""New nodes: driver, endpoint, options, flags and files are those that buildx chooses."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from shipline.builders.configuration import format_toml, read_configuration
from shipline.builders.container import last_words, parse_options
from shipline.builders.creating import NodeRequest, with_new_node
from shipline.builders.instances import Builder, Node
from shipline.errors import UsageError
from shipline.oci import Platform

HOST = {"DOCKER_HOST": "unix:///engine.sock", "HOME": "/nowhere"}
ALLOWED = "--allow-insecure-entitlement"


def made(
    asked: NodeRequest,
    existing: Builder | None = None,
    environment: dict[str, str] | None = None,
    directory: Path = Path("/nowhere"),
) -> tuple[Builder, Node]:
    return with_new_node("farm", existing, asked, environment or HOST, directory)


@pytest.mark.parametrize(
    "endpoint, environment, driver, recorded",
    [
        ("", {}, "docker-container", "unix:///engine.sock"),
        ("default", {}, "docker-container", "unix:///engine.sock"),
        ("", {"BUILDKIT_HOST": "tcp://b:1"}, "remote", "tcp://b:1"),
        ("tcp://b:1", {}, "remote", "tcp://b:1"),
        ("ssh://b", {}, "remote", "ssh://b"),
    ],
)
def test_driver_and_endpoint_follow_what_is_named(
    endpoint: str, environment: dict[str, str], driver: str, recorded: str
) -> None:
    builder, node = made(NodeRequest(endpoint=endpoint), environment=HOST | environment)
    assert (builder.driver, node.endpoint, node.name) == (driver, recorded, "farm0")


def test_pods_have_an_endpoint_of_their_own() -> None:
    asked = NodeRequest(driver="kubernetes", name="n")
    _, node = made(asked, environment=HOST | {"KUBECONFIG": "/k"})
    assert node.endpoint == "kubernetes:///farm?deployment=n&kubeconfig=%2Fk"
    given = "kubernetes://?kubeconfig=/k&context=c"
    _, node = made(NodeRequest(driver="kubernetes", endpoint=given))
    assert node.endpoint == given
    with pytest.raises(UsageError, match="not an endpoint of the driver kubernetes"):
        made(NodeRequest(driver="kubernetes", endpoint="tcp://b"))


@pytest.mark.parametrize(
    "flags, options, expected",
    [
        (None, (), [f"{ALLOWED}=network.host"]),
        (None, ("network=host",), [f"{ALLOWED}=network.host"]),
        ("--debug", (), ["--debug", f"{ALLOWED}=network.host"]),
        (f"{ALLOWED}=security.insecure", (), [f"{ALLOWED}=security.insecure"]),
        (
            f"{ALLOWED} security.insecure",
            ("network=host",),
            [ALLOWED, "security.insecure", f"{ALLOWED}=network.host"],
        ),
        ("--root '/a b'", (), ["--root", "/a b", f"{ALLOWED}=network.host"]),
    ],
)
def test_a_daemon_allows_the_network_unless_told_otherwise(
    flags: str | None, options: tuple[str, ...], expected: list[str]
) -> None:
    _, node = made(NodeRequest(flags=flags, driver_options=options))
    assert [*node.flags] == expected


def test_a_node_keeps_what_is_not_changed() -> None:
    builder, node = made(
        NodeRequest(driver_options=("memory=1g",), platforms=(Platform.parse("linux/arm64"),))
    )
    changed, node = made(NodeRequest(name="farm0", flags="--debug"), builder)
    assert node.driver_options == {"memory": "1g"} and node.platforms == builder.nodes[0].platforms
    assert node.flags[0] == "--debug" and changed.nodes == (node,)
    added, node = made(NodeRequest(endpoint="unix:///other.sock"), builder)
    assert [one.name for one in added.nodes] == ["farm0", "farm1"]
    with pytest.raises(UsageError, match="another node of farm has the endpoint"):
        made(NodeRequest(), builder)


def test_a_platform_goes_to_the_node_that_it_is_given_to() -> None:
    amd, arm = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
    builder, _ = made(NodeRequest(platforms=(amd, arm)))
    changed, _ = made(NodeRequest(endpoint="unix:///other.sock", platforms=(arm,)), builder)
    assert [one.platforms for one in changed.nodes] == [(amd,), (arm,)]
    changed, _ = made(NodeRequest(name="farm0", platforms=(amd, arm)), changed)
    assert [one.platforms for one in changed.nodes] == [(amd, arm), ()]


@pytest.mark.parametrize(
    "asked, said",
    [
        (NodeRequest(driver="cloud"), "there is no driver 'cloud'"),
        (NodeRequest(driver_options=("memory",)), "is not K=V"),
        (NodeRequest(flags="'"), "cannot be read"),
        (NodeRequest(name="-x"), "cannot be the name"),
        (NodeRequest(endpoint="tcp://b", flags="--debug"), "starts no daemon"),
    ],
)
def test_what_cannot_be_is_refused(asked: NodeRequest, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        made(asked)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"memroy": "1g"}, "no option 'memroy'"),
        ({"env.": "x"}, "no option 'env.'"),
        ({"memory": "much"}, "--driver-opt memory: not a size"),
        ({"cpu-shares": "x"}, "--driver-opt cpu-shares: not a whole number"),
        ({"restart-policy": "sometimes"}, "is not a policy"),
        ({"restart-policy": "always:3"}, "is not a policy"),
        ({"default-load": "maybe"}, "neither true nor false"),
        ({"image": "A"}, "A"),
    ],
)
def test_options_of_a_container_are_checked(options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_options(options)


def test_options_of_a_container_are_read() -> None:
    found = parse_options(
        {"image": "a.example/b", "restart-policy": "on-failure:3", "env.A": "b=c", "memory": "2g"}
    )
    assert str(found.image) == "a.example/b:latest" and found.resources.memory == 2 << 30
    assert (found.restart, found.restarts, found.environment) == ("on-failure", 3, {"A": "b=c"})


CONFIGURATION = """\
debug = true
insecure-entitlements = ["security.insecure"]
[worker.oci]
max-parallelism = 4
gckeepstorage = "9GB"
[worker.oci.labels]
"a.b/c" = "d\\te"
[[worker.oci.gcpolicy]]
all = true
filters = ["type==source.local"]
[registry."a.example:5000"]
http = false
ca = ["ca.pem"]
[[registry."a.example:5000".keypair]]
key = "key.pem"
cert = "/%s/cert.pem"
"""


def test_certificates_come_with_the_configuration(tmp_path: Path) -> None:
    text = CONFIGURATION % str(tmp_path).lstrip("/")
    (tmp_path / "buildkitd.toml").write_text(text)
    for name in ("ca", "key", "cert"):
        (tmp_path / f"{name}.pem").write_text(name)
    files = read_configuration(tmp_path / "buildkitd.toml")
    place = "certs/a.example_5000"
    assert {name: content for name, content in files.items() if name != "buildkitd.toml"} == {
        f"{place}/{name}.pem": name.encode() for name in ("ca", "key", "cert")
    }
    expected = tomllib.loads(text)
    registry = expected["registry"]["a.example:5000"]
    registry["ca"] = [f"/etc/buildkit/{place}/ca.pem"]
    registry["keypair"] = [
        {"key": f"/etc/buildkit/{place}/key.pem", "cert": f"/etc/buildkit/{place}/cert.pem"}
    ]
    assert tomllib.loads(files["buildkitd.toml"].decode()) == expected
    asked = NodeRequest(configuration=tmp_path / "buildkitd.toml")
    assert ALLOWED in made(asked)[1].flags[0], "network.host is not among those of the file"


def test_the_configuration_of_buildx_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "buildkitd.default.toml").write_text('insecure-entitlements = ["network.host"]\n')
    _, node = made(NodeRequest(), directory=tmp_path)
    assert [*node.files] == ["buildkitd.toml"] and node.flags == ()
    _, node = made(NodeRequest(endpoint="tcp://b"), directory=tmp_path)
    assert node.files == {}


@pytest.mark.parametrize(
    "text",
    ["a = ", '[registry."a"]\nca = [1]\n', '[registry]\na = "b"\n', '[registry.a]\nca=["no"]'],
)
def test_a_wrong_configuration_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "buildkitd.toml").write_text(text)
    with pytest.raises(UsageError, match="--buildkitd-config: "):
        read_configuration(tmp_path / "buildkitd.toml")


def test_toml_comes_back() -> None:
    document = {
        "a b": 'q"\\\x7f\n',
        "n": -1.5,
        "list": [1, True, {"x": "y"}],
        "table": {"é": "ü", "empty": {}, "inner": {"v": []}},
    }
    assert tomllib.loads(format_toml(document)) == document


def test_toml_is_laid_out_as_buildx_does_it() -> None:
    text = 'debug = true\n\n[log]\n  format = "text"\n\n  [log.more]\n    a = 1\n'
    assert format_toml(tomllib.loads(text)) == text


@pytest.mark.parametrize(
    "log, words",
    [
        ("one\ntwo\n", "one\ntwo"),
        (
            'level=warning msg="failed to see"\n(1, 1): cannot convert\nmain.load\n\t/load.go:1\n'
            * 3,
            "(1, 1): cannot convert",
        ),
        ("Incorrect Usage. no flag -x\n\nNAME:\n   buildkitd\n", "Incorrect Usage. no flag -x"),
    ],
)
def test_a_daemon_that_ended_is_quoted_with_its_error(log: str, words: str) -> None:
    assert last_words(log) == words
