"""Addresses: one rule, whoever dials."""

from __future__ import annotations

import socket

import pytest

from shipline.net import is_link_local, is_loopback, is_public, read_address
from shipline.registry.hosts import AddressPolicy, HostSettings, policy_for_link
from shipline.registry.request import Url
from shipline.server.hooks.outbound import DeliveryFailed, DeliveryTarget, post

PRIVATE = (
    *("10.0.0.1", "127.0.0.1", "::1", "fe80::1%eth0", "fd00::1", "169.254.1.1", "0.0.0.0"),
    *("::ffff:10.0.0.1", "64:ff9b::a00:1", "100.64.0.1", "224.0.0.1", "192.168.1.1"),
    *("64:ff9b:1::a00:1", "2002:a00:1::", "::10.0.0.1", "::ffff:0:a00:1", "fec0::1"),
    *("3fff::1", "192.0.0.9", "192.88.99.1", "2001:db8::1", "198.18.0.1", "240.0.0.1"),
)
PUBLIC = ("8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808", "::ffff:8.8.8.8")
LINK_LOCAL = (
    *("169.254.169.254", "fe80::1%eth0", "::ffff:169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_so_for_registries_and_webhooks(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_address(address)
    assert found is not None and not is_public(found)
    assert not AddressPolicy.PUBLIC.allows(address)
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(DeliveryFailed, match="not a public address"):
        post(DeliveryTarget.parse("https://receiver.example/"), b"{}", {}, 1.0)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_may_be_dialled(address: str) -> None:
    assert AddressPolicy.PUBLIC.allows(address)


@pytest.mark.parametrize("address", LINK_LOCAL)
def test_the_secrets_of_clouds_are_out_of_reach_in_every_notation(address: str) -> None:
    found = read_address(address)
    assert found is not None and is_link_local(found)
    assert not AddressPolicy.NOT_LINK_LOCAL.allows(address)


@pytest.mark.parametrize("address", ["127.0.0.3", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"])
def test_a_private_server_sends_no_program_to_the_services_of_its_own_machine(address: str) -> None:
    def policy(url: str, *, for_others: bool) -> AddressPolicy:
        origin, link = Url.parse(url).origin, Url.parse("http://other.example/")
        settings = HostSettings(for_others=for_others)
        return policy_for_link(settings, link, origin, on_internet=False)

    assert not policy("http://10.0.0.1/", for_others=True).allows(address)
    assert policy("http://10.0.0.1/", for_others=True).allows("10.0.0.2")
    assert policy("http://127.0.0.1/", for_others=True).allows(address)
    assert policy("http://10.0.0.1/", for_others=False).allows(address)


def test_what_is_no_address_is_not_dialled_for_others() -> None:
    assert not AddressPolicy.NOT_THIS_MACHINE.allows("x")
    assert not AddressPolicy.PUBLIC.allows("evil") and not AddressPolicy.NOT_LINK_LOCAL.allows("")


def test_this_machine_is_known_by_name_and_address() -> None:
    assert all(map(is_loopback, ["localhost", "LOCALHOST", "127.0.0.9", "::1", "[::1]"]))
    others = ["127.0.0.1.evil", "127.1.evil.com", "localhost.", "a.localhost", "10.0.0.1", ""]
    assert not any(map(is_loopback, others))
