"""`uuid7`: form, order, and that no two are the same."""

import itertools
import os
import threading
import time
import uuid
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from emitd_handlers.text import uuid7 as module
from emitd_handlers.text.uuid7 import uuid7


@pytest.fixture
def clock() -> Iterator[list[int]]:
    """A clock to set by hand, in milliseconds; the ids made with it are forgotten afterwards."""
    now = [1_790_000_000_000]
    module._forget()
    with patch.object(module, "time_ns", lambda: now[0] * 1_000_000):
        yield now
    module._forget()


def test_is_a_version_7_uuid_of_the_present() -> None:
    """Version, variant, spelling and time are those of RFC 9562."""
    before = time.time_ns() // 1_000_000
    text = uuid7()
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= parsed.int >> 80 <= time.time_ns() // 1_000_000


def test_every_millisecond_has_the_same_form(clock: list[int]) -> None:
    """Whatever the random part, an id is a well-formed UUIDv7 of its millisecond."""
    for _ in range(5_000):
        clock[0] += 1
        parsed = uuid.UUID(text := uuid7())
        assert str(parsed) == text
        assert (parsed.version, parsed.variant, parsed.int >> 80) == (7, uuid.RFC_4122, clock[0])


def test_ids_sort_in_the_order_made() -> None:
    """Over many milliseconds each id is greater than the one before."""
    ids = [uuid7() for _ in range(200_000)]
    assert all(a < b for a, b in itertools.pairwise(ids))


def test_order_holds_while_the_clock_goes_back(clock: list[int]) -> None:
    """After a step back, ids go on counting in the last millisecond until the clock has caught up."""
    ids = [uuid7()]
    clock[0] -= 3_600_000
    ids += [uuid7(), uuid7()]
    clock[0] += 3_600_001
    ids.append(uuid7())
    assert ids == sorted(set(ids))


def test_a_millisecond_has_one_series(clock: list[int]) -> None:
    """Of two threads that meet at the start of a millisecond the second one goes on with what the first began."""
    first = uuid7()
    module._start_series(clock[0])
    assert first < uuid7()
    assert first[:24] == uuid7()[:24]


def test_processes_do_not_share_ids(clock: list[int]) -> None:
    """In the same millisecond another process (one that starts, or a forked child) makes other ids."""
    mine = uuid7()
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            os.write(writer, uuid7().encode())
        finally:
            os._exit(0)
    os.wait()
    theirs = os.read(reader, 36).decode()
    os.close(reader)
    os.close(writer)
    assert theirs[:14] == mine[:14]
    assert theirs[15:] != mine[15:]
    assert int(theirs[24:], 16) != int(mine[24:], 16) + 1


def test_threads_get_different_ids() -> None:
    """Threads at once never get one id twice, and each gets its own in order."""
    results: list[list[str]] = []

    def work() -> None:
        results.append([uuid7() for _ in range(20_000)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each for result in results for each in result}) == 80_000
    assert all(result == sorted(result) for result in results)
