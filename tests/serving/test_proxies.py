from __future__ import annotations

import pytest

from mercato.errors import MercatoError
from mercato.serving.proxies import NetworkNames, Proxies, share

PROXIES = Proxies.parse("10.0.0.0/8, 2001:db8::1")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy.internal", "10.0.0.1;10.0.0.2"])
def test_what_is_no_address_or_network_is_refused(text):
    with pytest.raises(MercatoError, match="--proxy: "):
        Proxies.parse(text)


def test_without_any_nobody_is_trusted():
    assert "127.0.0.1" not in Proxies.parse("")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.1"),
        ([b"192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.1:80"], "192.0.2.1"),
        ([b"[2001:DB8:0::2]:80"], "2001:db8::2"),
        ([b"8.8.8.8, 192.0.2.1,10.0.0.2"], "192.0.2.1"),
        ([b"8.8.8.8", b"192.0.2.1", b"2001:db8::1"], "192.0.2.1"),
        ([b"8.8.8.8, ::ffff:192.0.2.1"], "192.0.2.1"),
        ([b"8.8.8.8, unknown"], "10.0.0.1"),
        ([b"8.8.8.8, unknown, 10.0.0.2"], "10.0.0.2"),
        ([b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([b"\xff"], "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_whom_no_proxy_stands_for(forwarded, client):
    assert PROXIES.client("10.0.0.1", forwarded) == client


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:ffff::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_of_ipv6_counts_as_its_network(address, counted):
    assert share(address) == counted


def test_a_network_is_named_anew_each_day_and_tells_no_address() -> None:
    clock = [1_700_000_000.0]
    names = NetworkNames(b"k" * 32, lambda: clock[0])
    today = names.of("192.0.2.7")
    assert names.of("192.0.2.7") == names.of("::ffff:192.0.2.7") == today != names.of("192.0.2.8")
    assert names.of("2001:db8:1:2::3") == names.of("2001:db8:1:f::9") != names.of("2001:db8:2::")
    assert today != NetworkNames(b"other", lambda: clock[0]).of("192.0.2.7") and len(today) == 16
    clock[0] += 86_400
    assert names.of("192.0.2.7") != today
