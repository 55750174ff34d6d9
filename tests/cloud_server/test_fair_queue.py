"""Fair queueing: what a device that comes later, or a device that cost more than expected, receives."""

from __future__ import annotations

from cachenet.cloud_server.serving.accounts import _MAX_ACCOUNTS, Accounts
from cachenet.cloud_server.serving.fair_queue import FairQueue, QueuedItem


def queue_of(expected: dict[str, float] | None = None) -> FairQueue[int]:
    return FairQueue(lambda device: (expected or {}).get(device, 10.0))


def push(queue: FairQueue[int], device: str, count: int = 1) -> None:
    for number in range(count):
        queue.push(QueuedItem(number, device, 0.0, 9.0))


def order(queue: FairQueue[int], count: int) -> str:
    return "".join(queue.serve(queue.next()).device for _ in range(count))


def test_a_cheap_device_leaves_more_often_than_a_dear_one() -> None:
    queue = queue_of({"a": 10.0, "b": 30.0})
    push(queue, "a", 6)
    push(queue, "b", 6)
    served = order(queue, 8)
    assert (served.count("a"), served.count("b")) == (6, 2)


def test_a_device_that_was_away_has_no_claim_on_the_time_that_it_missed() -> None:
    queue = queue_of()
    push(queue, "a", 20)
    order(queue, 10)
    push(queue, "b", 10)
    assert sorted(order(queue, 8)) == list("aaaabbbb")


def test_what_an_item_cost_beyond_expectation_delays_the_next_of_its_device() -> None:
    queue = queue_of()
    push(queue, "a", 4)
    push(queue, "b", 4)
    assert order(queue, 2) == "ab"
    queue.correct("a", 20.0)
    assert order(queue, 3) == "bba"


def test_an_idle_server_forgets_what_devices_cost() -> None:
    queue = queue_of()
    push(queue, "a")
    order(queue, 1)
    queue.correct("a", 500.0)
    queue.settle(idle=True)
    push(queue, "a")
    push(queue, "b")
    assert order(queue, 2) == "ab"


def test_a_stream_of_new_devices_does_not_starve_an_older_one() -> None:
    queue = queue_of()
    push(queue, "old", 2)
    order(queue, 1)
    served = []
    for number in range(4):
        push(queue, f"new{number}a")
        push(queue, f"new{number}b")
        served.append(queue.serve(queue.next()).device)
        queue.settle(idle=False)
    assert "old" in served


def test_devices_that_have_gone_take_no_memory() -> None:
    queue, now = queue_of(), [0.0]
    accounts = Accounts(lambda: now[0], share=0.25)
    for number in range(3 * _MAX_ACCOUNTS):
        push(queue, f"forged{number}")
        order(queue, 1)
        queue.correct(f"forged{number}", 5.0)
        queue.settle(idle=False)
        accounts.charge(f"forged{number}", 5.0)
    assert len(queue._flows) < 10
    assert len(accounts._accounts) == _MAX_ACCOUNTS


def test_tokens_come_back_with_time_up_to_the_capacity() -> None:
    now = [0.0]
    accounts = Accounts(lambda: now[0], share=0.25)
    accounts.charge("cam", 600.0)
    assert accounts.over_quota("cam")
    now[0] = 0.001 * accounts.retry_after_ms("cam")
    assert not accounts.over_quota("cam")
    now[0] = 1e6
    accounts.charge("cam", 501.0)
    assert accounts.over_quota("cam"), "a bucket holds two seconds of the quota, however long the device was silent"
    assert not accounts.over_quota("other")


def test_the_expected_cost_follows_the_device() -> None:
    accounts = Accounts(lambda: 0.0, share=0.25)
    assert accounts.expected_ms("cam") == 0.0
    accounts.charge("cam", 100.0)
    assert accounts.expected_ms("new") == accounts.expected_ms("cam") == 100.0
    for _ in range(20):
        accounts.charge("cam", 20.0)
        accounts.charge("heavy", 400.0)
    assert 20.0 <= accounts.expected_ms("cam") < 21.0
    assert accounts.expected_ms("heavy") == 400.0
