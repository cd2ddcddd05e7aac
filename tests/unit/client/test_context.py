"""`emitd.log_context`: attributes for all records of a block."""

import asyncio
import contextvars
import threading

import pytest

from emitd import log_context
from emitd.context import current_attributes


def test_outside_of_any_block_there_are_none() -> None:
    """And after one there are none again."""
    assert current_attributes() == {}
    with log_context(a=1):
        assert current_attributes() == {"a": 1}
    assert current_attributes() == {}


def test_an_inner_block_adds_to_the_outer_one() -> None:
    """Its own win, and are gone with it."""
    with log_context(a=1, b=1):
        with log_context(b=2, c=3):
            assert current_attributes() == {"a": 1, "b": 2, "c": 3}
        assert current_attributes() == {"a": 1, "b": 1}


def test_a_block_that_raises_ends_too() -> None:
    """The next request of the same thread must not carry what the last one died with."""
    with pytest.raises(LookupError), log_context(a=1):
        raise LookupError
    assert current_attributes() == {}


def test_a_thread_starts_with_none() -> None:
    """Each has its own, except one that is run in the context of another."""
    found = []
    with log_context(a=1):
        context = contextvars.copy_context()
        for target in (current_attributes, lambda: context.run(current_attributes)):
            thread = threading.Thread(target=lambda target=target: found.append(dict(target())))  # type: ignore[misc]
            thread.start()
            thread.join()
    assert found == [{}, {"a": 1}]


async def test_a_task_starts_with_those_of_its_maker() -> None:
    """And what two tasks add, neither sees of the other."""

    async def work(name: str) -> dict[str, object]:
        with log_context(task=name):
            await asyncio.sleep(0)
            return dict(current_attributes())

    with log_context(request="r"):
        found = await asyncio.gather(work("x"), work("y"))
    assert found == [{"request": "r", "task": "x"}, {"request": "r", "task": "y"}]


def test_any_name_can_be_given() -> None:
    """A dotted one too, which is no identifier, and `self`."""
    with log_context(**{"http.route": "/", "self": 1}):
        assert current_attributes() == {"http.route": "/", "self": 1}
