"""Pages of jobs and of their history, over each database: complete, bounded, and with tokens that belong to a query."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from emitd_handlers.errors import JobQueryInvalid
from emitd_handlers.jobs.paging import (
    LABEL_OVERHEAD_BYTES,
    job_bytes,
    job_page,
    read_job_token,
    read_transition_token,
    transition_page,
)
from emitd_handlers.jobs.source import (
    Job,
    JobChange,
    JobQuery,
    JobTransition,
    TransitionPage,
    TransitionQuery,
)
from emitd_handlers.jobs.store import JobStore
from emitd_handlers.record import JobState
from emitd_handlers.room import MAX_PAGE_BYTES
from emitd_server.convert.jobs import changes_to_wire
from support.jobs.backends import BACKENDS, JobBackend, applied, make_backend, opened, report

QUEUED, RUNNING, COMPLETED, FAILED = JobState
#: Each in a list of one, for filters that hold several.
QUERY = JobQuery(
    job_type="t",
    statuses=(RUNNING, QUEUED),
    job_ids=("a", "b"),
    labels={"k": "v", "l": "w"},
    updated_after_unix_nano=5,
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> JobBackend:
    return make_backend(request)


@pytest.fixture
async def store(backend: JobBackend) -> AsyncIterator[JobStore]:
    async with opened(backend.make_store()) as store:
        yield store


def job(job_id: str = "j", **fields: Any) -> Job:
    return Job(job_id=job_id, job_type="t", status=RUNNING, **fields)


def transitions(*revisions: int, message: str = "") -> list[JobTransition]:
    return [JobTransition(revision, 1, FAILED, 0, 0, "", message) for revision in revisions]


def token_of(*values: object) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode(values)).decode()


async def ids(store: JobStore, **query: Any) -> list[str]:
    return [job.job_id for job in (await store.list(JobQuery(**query))).jobs]


async def page_of(store: JobStore, **query: Any) -> TransitionPage:
    page = await store.list_transitions(TransitionQuery(job_id="j", **query))
    assert page is not None
    return page


def test_a_page_ends_where_it_is_full_and_says_where_the_next_begins() -> None:
    """By the number of jobs; the last page has no token, also where it is just full."""
    jobs = [job(job_id, create_time_unix_nano=9) for job_id in "cba"]
    query = JobQuery(page_size=2)
    page = job_page(query, jobs)
    assert [job.job_id for job in page.jobs] == ["c", "b"]
    assert read_job_token(msgspec.structs.replace(query, page_token=page.next_page_token)) == (9, "b")
    assert job_page(query, jobs[:2]).next_page_token == ""
    assert job_page(query, []) == job_page(query, iter(()))
    assert read_job_token(query) is None


def test_a_page_ends_before_the_job_that_would_make_it_too_large() -> None:
    """And is never empty while there is a job."""
    half, over = "x" * (MAX_PAGE_BYTES // 2), "x" * MAX_PAGE_BYTES
    query = JobQuery()
    for texts, expected in (
        ([half, half, ""], 1),
        ([half, "", half, ""], 2),
        ([over, ""], 1),
        (["", over], 1),
        (["", half], 2),
    ):
        page = job_page(query, [job(details_json=text) for text in texts])
        assert len(page.jobs) == expected
        assert bool(page.next_page_token) == (expected < len(texts))


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "ä" * 50},
        {"details_json": "ä" * 50},
        {"source": "ä" * 50},
        {"failure_message": "ä" * 50},
        {"failure_reason": "ä" * 50},
        {"cancel_reason": "ä" * 50},
        {"labels": {"ä" * 50: ""}},
        {"labels": {"": "ä" * 50}},
    ],
    ids=str,
)
def test_every_long_text_counts_in_bytes(fields: dict[str, Any]) -> None:
    """As it is sent, in UTF-8."""
    overhead = LABEL_OVERHEAD_BYTES if "labels" in fields else 0
    assert job_bytes(job(**fields)) == job_bytes(job()) + 100 + overhead


def test_a_job_is_never_larger_than_it_counts() -> None:
    """With every field at its largest, and as a change of many jobs."""
    text, largest = "t" * 20_000, 2**64 - 1
    full = Job(
        job_id="j" * 20_000,
        job_type=text,
        status=FAILED,
        progress=100,
        message=text,
        details_json=text,
        labels={f"{number:03}" + "ä" * 60: "v" * 200 for number in range(64)},
        source=text,
        attempt=2**32 - 1,
        revision=largest,
        create_time_unix_nano=largest,
        update_time_unix_nano=largest,
        lease_expire_time_unix_nano=largest,
        failure_reason=text,
        failure_message=text,
        cancel_requested=True,
        cancel_reason=text,
        start_time_unix_nano=largest,
        end_time_unix_nano=largest,
    )
    change = JobChange(full.job_id, full.revision, full, left_filter=True)
    assert changes_to_wire([change]).ByteSize() <= job_bytes(full)


def test_a_token_reads_whatever_the_order_of_filters() -> None:
    """Another size of the page is another matter too."""
    token = job_page(JobQuery(page_size=1), [job(), job()]).next_page_token
    assert read_job_token(JobQuery(page_size=7, page_token=token)) == (0, "j")
    page = job_page(msgspec.structs.replace(QUERY, page_size=1), [job(), job()])
    same = JobQuery(
        job_type="t",
        statuses=(QUEUED, RUNNING, QUEUED),
        job_ids=("b", "a", "b"),
        labels={"l": "w", "k": "v"},
        updated_after_unix_nano=5,
        page_token=page.next_page_token,
    )
    assert read_job_token(same) == (0, "j")


@pytest.mark.parametrize(
    "change",
    [
        {"job_type": "u"},
        {"job_type": ""},
        {"statuses": (RUNNING,)},
        {"statuses": ()},
        {"job_ids": ("a",)},
        {"job_ids": ()},
        {"labels": {"k": "v"}},
        {"labels": {"k": "w", "l": "v"}},
        {"labels": {}},
        {"updated_after_unix_nano": 6},
    ],
    ids=str,
)
def test_a_token_of_other_filters_is_refused(change: dict[str, Any]) -> None:
    """By field, whichever differs."""
    token = job_page(msgspec.structs.replace(QUERY, page_size=1), [job(), job()]).next_page_token
    with pytest.raises(JobQueryInvalid, match="was made for other filters") as caught:
        read_job_token(msgspec.structs.replace(QUERY, page_token=token, **change))
    assert caught.value.field == "page_token"


def test_a_token_of_a_history_belongs_to_its_job_and_revision() -> None:
    """Another page size is another matter."""
    query = TransitionQuery(job_id="j", after_revision=2, page_size=1)
    token = transition_page(query, transitions(3, 5), kept_after=0).next_page_token
    again = TransitionQuery(job_id="j", after_revision=2, page_size=9, page_token=token)
    assert read_transition_token(again) == 3
    for change in ({"job_id": "k"}, {"after_revision": 1}, {"after_revision": 3}):
        with pytest.raises(JobQueryInvalid, match="was made for another request") as caught:
            read_transition_token(msgspec.structs.replace(again, **change))  # type: ignore[arg-type]
        assert caught.value.field == "page_token"


def test_a_token_of_one_list_is_none_of_the_other() -> None:
    """Nor is anything that was made up."""
    jobs_token = job_page(JobQuery(page_size=1), [job(), job()]).next_page_token
    history_query = TransitionQuery(job_id="j", page_size=1)
    history_token = transition_page(history_query, transitions(1, 2), kept_after=0).next_page_token
    made_up = [
        "nonsense",
        "ünsinn",
        "=",
        "AAAA",
        token_of(b"", "x"),
        token_of(b"", 1.5),
        token_of(1, 1),
        "%00",
    ]
    for token in (history_token, *made_up, token_of(b"", 1)):
        with pytest.raises(JobQueryInvalid, match="is none that this server has made"):
            read_job_token(JobQuery(page_token=token))
    for token in (jobs_token, *made_up, token_of(b"", 1, "j")):
        with pytest.raises(JobQueryInvalid, match="is none that this server has made"):
            read_transition_token(msgspec.structs.replace(history_query, page_token=token))


@pytest.mark.parametrize("after_revision", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_revision_is_any_number_that_the_wire_has(after_revision: int) -> None:
    """Those beyond what a database has room for are beyond every job."""
    query = TransitionQuery(job_id="j", after_revision=after_revision, page_size=1)
    assert read_transition_token(query) == min(after_revision, 2**63 - 1)
    token = transition_page(query, transitions(2**64 - 1, 1), kept_after=0).next_page_token
    assert read_transition_token(msgspec.structs.replace(query, page_token=token)) == 2**63 - 1


def test_a_history_is_truncated_where_more_was_asked_for_than_was_kept() -> None:
    """On each of its pages."""
    for after_revision, expected in ((0, True), (6, True), (7, False), (8, False)):
        query = TransitionQuery(job_id="j", after_revision=after_revision, page_size=1)
        for items in (transitions(9, 10), transitions(9), []):
            assert transition_page(query, items, kept_after=7).history_truncated is expected


def test_a_page_of_a_history_ends_early_too() -> None:
    """Messages of failures may be long."""
    message = "ä" * 30_000
    page = transition_page(
        TransitionQuery(job_id="j"), transitions(*range(1, 100), message=message), kept_after=0
    )
    size = len(page.transitions) * (60_000 + 100)
    assert MAX_PAGE_BYTES - 60_400 <= size <= MAX_PAGE_BYTES
    assert page.next_page_token
    alone = transition_page(
        TransitionQuery(job_id="j"), transitions(1, 2, message="x" * MAX_PAGE_BYTES), kept_after=0
    )
    assert [item.revision for item in alone.transitions] == [1]


@pytest.mark.parametrize("page_size", [1, 2, 3, 6, 7, 8, 100])
async def test_the_pages_of_a_history_are_the_history(store: JobStore, page_size: int) -> None:
    """Each transition once and in order, while others are made."""
    await applied(store, *[report(attempt=attempt) for attempt in range(1, 8)])
    seen: list[int] = []
    token = ""
    for turn in range(20):
        page = await page_of(store, page_size=page_size, page_token=token)
        assert len(page.transitions) <= page_size
        seen += [item.revision for item in page.transitions]
        token = page.next_page_token
        if not token:
            break
        await applied(store, report("other"))
        if turn == 0:
            await applied(store, report(attempt=8))
    assert seen == list(range(1, 9 if page_size < 7 else 8))


async def test_a_history_with_large_failures_comes_in_several_pages(store: JobStore) -> None:
    """Each near 2 MiB at most, and together complete."""
    message = "x" * 200_000
    for attempt in range(1, 26):
        await applied(store, report(status=FAILED, attempt=attempt, failure_message=message))
    sizes: list[int] = []
    token = ""
    while not sizes or token:
        page = await page_of(store, page_size=1000, page_token=token)
        sizes.append(len(page.transitions))
        token = page.next_page_token
    assert sizes == [10, 10, 5]


async def test_a_token_goes_with_its_query_to_the_database(store: JobStore) -> None:
    """The next page begins after the last; a token of another query is refused."""
    await applied(store, *[report(job_id, labels={"k": "v"}) for job_id in "abc"])
    first = await store.list(JobQuery(page_size=2, labels={"k": "v"}))
    assert await ids(store, labels={"k": "v"}, page_token=first.next_page_token) == ["a"]
    with pytest.raises(JobQueryInvalid):
        await store.list(JobQuery(page_token=first.next_page_token))
    await applied(store, report("j"), report("j", attempt=2))
    history = await page_of(store, page_size=1)
    with pytest.raises(JobQueryInvalid):
        await page_of(store, after_revision=1, page_token=history.next_page_token)


async def test_labels_narrow_the_list(store: JobStore) -> None:
    """A job must have all of them, each with its value; what else it has does not matter."""
    await applied(
        store,
        report("a", labels={"team": "x", "env": "prod"}),
        report("b", labels={"team": "x"}),
        report("c", labels={"team": "y", "env": "prod"}),
        report("d", labels={"env": "team", "x": ""}),
        report("e"),
    )
    assert await ids(store, labels={"team": "x"}) == ["b", "a"]
    assert await ids(store, labels={"team": "x", "env": "prod"}) == ["a"]
    assert await ids(store, labels={"env": "prod"}) == ["c", "a"]
    assert await ids(store, labels={"x": ""}) == ["d"]
    assert await ids(store, labels={"team": ""}) == []
    assert await ids(store, labels={"prod": "env"}) == []
    assert await ids(store) == ["e", "d", "c", "b", "a"]
    await applied(store, report("b", labels={"team": "z"}))
    assert await ids(store, labels={"team": "x"}) == ["a"]


async def test_ids_narrow_the_list(store: JobStore) -> None:
    """Those that exist, each once, newest first; together with the other filters."""
    await applied(store, *[report(job_id, QUEUED) for job_id in "abcd"])
    await applied(store, report("b", labels={"k": "v"}))
    assert await ids(store, job_ids=("b", "d", "unknown", "b")) == ["d", "b"]
    assert await ids(store, job_ids=("b", "d"), statuses=(RUNNING,)) == ["b"]
    assert await ids(store, job_ids=("a", "b"), labels={"k": "v"}) == ["b"]
    assert await ids(store, job_ids=("unknown",)) == []
    many = tuple(f"x{number}" for number in range(999))
    assert await ids(store, job_ids=(*many, "c")) == ["c"]


async def test_filters_are_values_and_no_statements(store: JobStore) -> None:
    """Whatever a name looks like to a database, it is compared, and found where it is the same."""
    odd = [
        "'",
        '"',
        "\\",
        "%",
        "_",
        "' OR '1'='1",
        "'; DROP TABLE job_logs; --",
        "$.a",
        "{",
        "ä€😀",
        "\n",
        "?",
        ":a",
    ]
    for number, text in enumerate(odd):
        await applied(store, report(text, labels={text: f"v{text}", "n": str(number)}))
    for text in odd:
        assert await ids(store, job_ids=(text,)) == [text]
        assert await ids(store, labels={text: f"v{text}"}) == [text]
        assert await ids(store, labels={text: text}) == []
        assert await ids(store, job_type=text) == []


async def test_any_number_of_labels_can_be_asked_for(store: JobStore) -> None:
    """Also more than any job has."""
    await applied(store, report(labels={"0": "v"}))
    assert await ids(store, labels={str(number): "v" for number in range(5000)}) == []
