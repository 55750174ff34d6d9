"""The order of brokers: the same for every program, even, and stable when the list changes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.transport.broker import Address, MqttError, addresses
from cachenet.shared.transport.shards import ranked

HOSTS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-.", min_size=1, max_size=20)
BROKERS = st.lists(
    st.builds(Address, HOSTS, st.integers(1, 65_535)),
    min_size=1,
    max_size=8,
    unique_by=lambda one: (one.host, one.port),
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=64)


@given(BROKERS, NAMES)
def test_every_broker_has_one_rank(brokers: list[Address], device: str) -> None:
    assert Counter(ranked(brokers, device)) == Counter(brokers)


@given(BROKERS, NAMES, st.randoms())
def test_the_order_of_the_list_has_no_effect(brokers: list[Address], device: str, random: st.Random) -> None:
    shuffled = list(brokers)
    random.shuffle(shuffled)
    assert ranked(shuffled, device) == ranked(brokers, device)


@given(BROKERS, NAMES, st.data())
def test_without_a_broker_the_others_have_the_same_order(
    brokers: list[Address], device: str, data: st.DataObject
) -> None:
    """So a device changes its broker only if its own is removed."""
    removed = data.draw(st.sampled_from(brokers))
    left = [one for one in brokers if one != removed]
    assert ranked(left, device) == tuple(one for one in ranked(brokers, device) if one != removed)


def test_user_and_ca_have_no_effect() -> None:
    plain, named = Address("a", 1), Address("a", 1, True, "cam", "secret")
    other = Address("b", 1)
    for number in range(20):
        first, second = ranked([plain, other], f"cam{number}"), ranked([named, other], f"cam{number}")
        assert first.index(other) == second.index(other)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_devices_are_spread_evenly_also_after_the_loss_of_a_broker(count: int) -> None:
    brokers, devices = [Address(f"broker-{number}", 1883) for number in range(count)], 3000
    orders = [ranked(brokers, f"cam{number}") for number in range(devices)]
    for rank in range(2):
        for users in Counter(order[rank] for order in orders).values():
            # Six standard deviations of a binomial distribution.
            assert abs(users - devices / count) < 6 * (devices / count * (1 - 1 / count)) ** 0.5


def test_a_list_is_parsed_into_its_brokers() -> None:
    found = addresses("mqtts://cam@one.local, mqtt://two.local:1884", "secret")
    assert found == (
        Address("one.local", 8883, True, "cam", "secret"),
        Address("two.local", 1884, False, None, "secret"),
    )


def test_one_address_is_a_list_of_one() -> None:
    assert addresses("mqtt://a,b@one.local") == (Address("one.local", 1883, user="a,b"),)


@pytest.mark.parametrize(
    ("urls", "why"),
    [
        ("mqtt://a,mqtt://a:1883", "listed twice"),
        ("mqtt://a,b", "before each broker of a list"),
        ("mqtt://a:1883,b:1883", "before each broker of a list"),
        ("mqtt://a,", "before each broker of a list"),
        (",mqtt://a", "is not mqtt://host:port"),
        ("mqtt://a,mqtt://", "is not mqtt://host:port"),
        ("mqtt://a,mqtts://cam:geheim@b", "a password does not belong"),
        ("mqtt://u:ge,heim@b", "a password does not belong"),
        ("mqtt://u:ge,heim", "before each broker of a list"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line_without_a_password(urls: str, why: str) -> None:
    with pytest.raises(MqttError, match=why) as raised:
        addresses(urls)
    assert "heim" not in str(raised.value)
    assert "\n" not in str(raised.value)
