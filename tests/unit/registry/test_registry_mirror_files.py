"""Mirrors in the files of Docker, containerd and Podman, merged with what is in them."""

from __future__ import annotations

import json
import tomllib

import pytest

from shipline.errors import ConfigError
from shipline.registry.hosts import Endpoint, HostSettings, parse_mirrors
from shipline.registry.mirror_files import daemon_json, for_docker, hosts_toml, registries_conf


def endpoints(*urls: str, host: str = "docker.io") -> tuple[list[Endpoint], Endpoint]:
    settings = HostSettings(mirrors=parse_mirrors(f"{host}={url}" for url in urls))
    *mirrors, registry = settings.endpoints(host)
    return mirrors, registry


NEAR, FAR, PLAIN, PART = (
    "https://near.lan",
    "https://far.lan:5000",
    "http://plain.lan",
    "https://hub.lan/proxy/hub#digest-only",
)


def test_daemon_json_keeps_everything_else() -> None:
    mirrors, _ = endpoints(NEAR, PLAIN, "http://127.0.0.1:5000")
    before = {
        "log-driver": "journald",
        "registry-mirrors": ["https://old.lan", f"{NEAR}/"],
        "insecure-registries": ["x.lan"],
    }
    text = daemon_json(json.dumps(before), mirrors)
    assert json.loads(text) == {
        "log-driver": "journald",
        "registry-mirrors": [NEAR, PLAIN, "http://127.0.0.1:5000", "https://old.lan"],
        "insecure-registries": ["plain.lan", "x.lan"],
    }
    assert daemon_json(text, mirrors) == text
    assert json.loads(daemon_json("", mirrors[:1])) == {"registry-mirrors": [NEAR]}
    with pytest.raises(ConfigError, match="not JSON"):
        daemon_json("{", mirrors)
    with pytest.raises(ConfigError, match="not a list"):
        daemon_json('{"registry-mirrors": "x"}', mirrors)


def test_docker_takes_no_paths_and_asks_for_tags() -> None:
    mirrors, _ = endpoints(NEAR, "https://a.lan/x", f"{NEAR}#digest-only")
    assert [bool(for_docker(one)) for one in mirrors] == [False, True, True]


HOSTS = """# ours
server = "https://registry-1.docker.io"  # the hub

[host."https://other.lan"]
  # stays
  capabilities = ["pull"]

[host."https://far.lan:5000"]
  capabilities = ["pull"]
  ca = "/etc/far.pem"
  [host."https://far.lan:5000".header]
    x-team = "a"
"""


def test_hosts_toml_keeps_settings_comments_and_others() -> None:
    mirrors, registry = endpoints(NEAR, FAR, PART)
    text = hosts_toml(HOSTS, registry, mirrors)
    before, after = tomllib.loads(HOSTS), tomllib.loads(text)
    part = "https://hub.lan/v2/proxy/hub"
    assert [*after["host"]] == [NEAR, FAR, part, "https://other.lan"]
    assert after["host"][NEAR] == {"capabilities": ["pull", "resolve"]}
    assert after["host"][part] == {"capabilities": ["pull"], "override_path": True}
    for kept in (FAR, "https://other.lan"):
        assert after["host"][kept] == before["host"][kept]
    assert "# the hub" in text and "# stays" in text and text.startswith("# ours")
    assert hosts_toml(text, registry, mirrors) == text


def test_a_new_hosts_toml_names_the_registry() -> None:
    mirrors, registry = endpoints(NEAR, host="quay.io")
    assert hosts_toml("", registry, mirrors) == (
        'server = "https://quay.io"\n\n[host."https://near.lan"]\n'
        '  capabilities = ["pull", "resolve"]\n'
    )


@pytest.mark.parametrize(
    "text",
    ["x = ", "[host]\n'https://near.lan' = {capabilities = ['pull']}\n", "host = {a = {}}\n"],
)
def test_a_hosts_toml_that_is_not_understood_is_left_alone(text: str) -> None:
    mirrors, registry = endpoints(NEAR)
    with pytest.raises(ConfigError) as raised:
        hosts_toml(text, registry, mirrors)
    assert "by hand" in raised.value.hint


def test_registries_conf_repeats_what_it_replaces() -> None:
    mirrors, _ = endpoints(NEAR, PLAIN, PART)
    system = """
unqualified-search-registries = ["docker.io"]
[[registry]]
location = "docker.io"
blocked = false
[[registry.mirror]]
location = "old.lan"
[[registry.mirror]]
location = "near.lan"
"""
    own = '[[registry]]\nlocation = "quay.io"\ninsecure = true\n'
    text = registries_conf(own, [system], {"docker.io": mirrors})
    assert tomllib.loads(text) == {
        "registry": [
            {"location": "quay.io", "insecure": True},
            {
                "location": "docker.io",
                "prefix": "docker.io",
                "blocked": False,
                "mirror": [
                    {"location": "near.lan"},
                    {"location": "plain.lan", "insecure": True},
                    {"location": "hub.lan/proxy/hub", "pull-from-mirror": "digest-only"},
                    {"location": "old.lan"},
                ],
            },
        ]
    }
    assert registries_conf(text, [system], {"docker.io": mirrors}) == text
