"""The client address cannot be forged, except by a trusted proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.server.limits import Network, client_address, client_network

TRUSTED = (Network("10.0.0.0/8"), Network("2001:db8::/32"))
addresses = st.ip_addresses(v=4).map(str)


@given(addresses.filter(lambda text: not text.startswith("10.")), st.text())
def test_an_untrusted_peer_speaks_only_for_itself(peer: str, forwarded: str) -> None:
    assert client_address(peer, forwarded, TRUSTED) == peer
    assert client_address(peer, forwarded, ()) == peer


@given(st.text(), addresses.filter(lambda text: not text.startswith("10.")))
def test_what_the_client_wrote_before_the_proxy_is_not_believed(lie: str, client: str) -> None:
    assert client_address("10.1.2.3", f"{lie}, {client}", TRUSTED) == client
    assert client_address("10.1.2.3", f"{lie}, {client}, 10.9.9.9", TRUSTED) == client


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (None, "10.1.2.3"),
        ("", "10.1.2.3"),
        ("nonsense", "10.1.2.3"),
        ("[2001:db9::1]", "2001:db9::1"),
        ("192.0.2.1, nonsense", "10.1.2.3"),
        ("10.7.7.7", "10.7.7.7"),
    ],
)
def test_what_a_proxy_says(forwarded: str | None, expected: str) -> None:
    assert client_address("10.1.2.3", forwarded, TRUSTED) == expected


def test_networks() -> None:
    assert Network.parse("192.0.2.0/24").contains("::ffff:192.0.2.7")
    assert not Network.parse("192.0.2.1").contains("192.0.2.2")
    assert not Network.parse("2001:db8::/32").contains("not an address")
    for text in ("", "192.0.2.1/24", "host"):
        with pytest.raises(ValueError):
            Network.parse(text)


def test_one_client_has_one_network_of_64_bits() -> None:
    assert client_network("2001:db8::1") == client_network("2001:db8::ffff") == "2001:db8::/64"
    assert client_network("192.0.2.1") == "192.0.2.1"
    assert client_network("") == ""
