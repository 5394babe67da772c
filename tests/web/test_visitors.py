"""A request is worked on while somebody listens to it."""

from __future__ import annotations

import time

from hart.web.visitors import Visitors


def work(taken):
    for number in range(1000):
        taken.append(number)
        yield {"number": number}


def test_nothing_begins_before_somebody_listens():
    visitors, taken = Visitors(grace_s=30), []
    updates = visitors.while_there("somebody", work(taken))
    assert [next(updates), next(updates)] == [{}, {}]
    with visitors.connected("somebody else"):
        assert next(updates) == {}
    assert taken == []
    with visitors.connected("somebody"):
        assert next(updates) == {"number": 0}


def test_what_nobody_asks_for_is_given_up():
    visitors, taken = Visitors(grace_s=0.2), []
    assert set(map(len, visitors.while_there("somebody", work(taken)))) == {0}
    assert taken == []


def test_who_leaves_has_a_moment_to_come_back():
    visitors, taken = Visitors(grace_s=0.2), []
    updates = visitors.while_there("somebody", work(taken))
    with visitors.connected("somebody"), visitors.connected("somebody"):
        next(updates)
    next(updates)
    time.sleep(0.1)
    with visitors.connected("somebody"):
        time.sleep(0.2)
        next(updates)
    time.sleep(0.3)
    assert list(updates) == []
    assert taken == [0, 1, 2, 3]


def test_nobody_is_remembered_for_ever():
    visitors = Visitors(grace_s=0.0)
    for number in range(100):
        with visitors.connected(f"visitor {number}"):
            assert visitors.listens(f"visitor {number}")
    assert not visitors.is_there("visitor 99")
    assert not visitors._left
    assert not visitors._open
