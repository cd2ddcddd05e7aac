"""JobCache: what is kept, and how much of it."""

from emitd_handlers.jobs.source import Job
from emitd_handlers.jobs.sqlite.writer import CachedJob, JobCache
from emitd_handlers.record import JobState


def cached(job_id: str) -> CachedJob:
    return CachedJob(Job(job_id=job_id, job_type="t", status=JobState.RUNNING), None)


def test_what_is_added_is_found() -> None:
    """The very same object, so that it can be changed in place."""
    cache = JobCache(10)
    job = cached("j")
    cache.add(job)
    assert cache.get("j") is job
    assert cache.get("other") is None


def test_it_is_bounded_and_keeps_what_is_asked_for() -> None:
    """Of many jobs at most `size` stay, among them the one that is always asked for."""
    cache = JobCache(10)
    favourite = cached("favourite")
    cache.add(favourite)
    for number in range(100):
        cache.add(cached(str(number)))
        assert cache.get("favourite") is favourite
        cache.trim([])
        assert len(cache) <= 12
    assert cache.get("99") is not None
    assert cache.get("50") is None


def test_nothing_is_dropped_before_the_trim() -> None:
    """A transaction finds every job that it has changed."""
    cache = JobCache(2)
    for number in range(100):
        cache.add(cached(str(number)))
    assert all([cache.get(str(number)) is not None for number in range(100)])


def test_the_unwanted_are_dropped() -> None:
    """From both generations."""
    cache = JobCache(2)
    cache.add(cached("a"))
    cache.add(cached("b"))
    cache.trim([])
    assert cache.get("a") is not None
    cache.trim(["a", "unknown"])
    assert cache.get("a") is None
    assert cache.get("b") is not None
