"""The events of a job: their text, how a stream goes on and ends, who may see it, and the application's stop."""

import asyncio
import json
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Response

from emitd import v1
from emitd.errors import EmitError, JobNotFound, RequestRejected, Unavailable
from emitd.fastapi import EmitdFastAPI, JobEvents, WebSettings, anyone, describe_job, on_stop_signals
from emitd.web.job_events import job_event, read_last_event_id
from emitd_server.config.loader import load_config
from emitd_server.in_process.client import InProcessClient
from emitd_server.service import LoggingService
from support.client.in_process_client import until

CONFIG = """
server:
  watch: {max_watchers: 1, heartbeat_seconds: 60, min_interval_ms: 1}
handlers:
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
  rest: {type: discard, levels: [DEBUG, INFO, WARNING, ERROR, CRITICAL]}
"""
GONE = {"type": "http.disconnect"}


class Page:
    """A page that follows a job, as the application's server sees it."""

    def __init__(self, app: Any, path: str, last_event_id: str = "") -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.is_over = False
        self._left = asyncio.Event()
        #: Cleared: the page does not read, and nothing more can be sent to it.
        self.reads = asyncio.Event()
        self.reads.set()
        headers = [(b"last-event-id", last_event_id.encode())] if last_event_id else []
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
        self.task = asyncio.create_task(app({**scope, "client": None}, self._receive, self._send))

    async def leave(self) -> None:
        """Go away, and wait for the server's part to end."""
        self._left.set()
        await asyncio.wait_for(self.task, 10)

    async def read(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Return all events: (id, name, data), when the stream is over."""
        await asyncio.wait_for(self.task, 10)
        return self.events

    @property
    def events(self) -> list[tuple[int, str, dict[str, Any]]]:
        blocks = [block.split("\n") for block in self.body.decode().split("\n\n")]
        fields = [dict(line.partition(": ")[::2] for line in block) for block in blocks]
        return [(int(f["id"]), f["event"], json.loads(f["data"])) for f in fields if "event" in f]

    async def _receive(self) -> Any:
        await self._left.wait()
        return GONE

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        assert not self.is_over
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message["body"]
            self.is_over = not message.get("more_body", False)


def app_of(client: Callable[[], Any], may_see: Callable[[v1.Job], bool] = anyone, **options: Any) -> FastAPI:
    web = EmitdFastAPI(client, **options)
    app = FastAPI(lifespan=web.lifespan)
    app.state.web = web
    web.install(app)

    @app.get("/jobs/{job_id}")
    async def follow(job_id: str, events: Annotated[JobEvents, Depends(web.job_events)]) -> Response:
        return await events(job_id, may_see=may_see)

    return app


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[tuple[FastAPI, InProcessClient]]:
    """An application over jobs in SQLite, and a client that reports some."""
    (folder / "emitd.yml").write_text(CONFIG)
    async with LoggingService.from_config(load_config(folder / "emitd.yml")) as service:
        app = app_of(lambda: service.client("shop"), **options)
        async with app.router.lifespan_context(app):
            yield app, service.client("worker")


class Failing:
    """A client whose verbs raise, each in turn what it was given."""

    def __init__(self, get: EmitError | None, watch: EmitError | None = None) -> None:
        self._get, self._watch = get, watch

    async def __aenter__(self) -> "Failing":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    def bind(self, **attributes: object) -> "Failing":
        return self

    def exception(self, message: str) -> None:
        pass

    async def get_job(self, job_id: str) -> v1.Job:
        if self._get:
            raise self._get
        return v1.Job(job_id=job_id, revision=1)

    async def watch_job(self, job_id: str, **options: object) -> AsyncIterator[v1.WatchJobResponse]:
        if self._watch:
            raise self._watch
        yield v1.WatchJobResponse(job=v1.Job(job_id=job_id, revision=1))


def test_no_text_forges_an_event() -> None:
    """Line breaks of any kind stay within the JSON of one line, also those between the tokens of a job's own data."""
    job = v1.Job(
        job_id="j",
        status=v1.JOB_STATE_RUNNING,
        revision=7,
        message="\n\nevent: end\ndata: x\r\u2028",
        details_json='{\r\n "big": 12345678901234567890,\n "text": "a\\nb"\n}',
    )
    text = job_event(v1.WatchJobResponse(job=job), describe_job(job)).decode()
    head, _, data = text.partition("data: ")
    assert head == "id: 7\nevent: progress\n"
    assert data.endswith("}\n\n")
    assert "\n" not in data[:-2]
    assert "\r" not in data
    told = json.loads(data)
    assert told["message"] == job.message
    assert told["details"] == {"big": 12345678901234567890, "text": "a\nb"}


def test_an_event_tells_what_concerns_a_page() -> None:
    """The end has a name of its own; labels and source, which may be nobody's business, are not told."""
    job = v1.Job(
        job_id="j",
        job_type="report",
        status=v1.JOB_STATE_FAILED,
        ended=True,
        failure_reason="CANCELLED",
        labels={"user": "demo"},
        source="worker-7.internal",
    )
    text = job_event(v1.WatchJobResponse(job=job), describe_job(job)).decode()
    assert "event: end\n" in text
    assert '"status":"FAILED"' in text
    assert '"failure_reason":"CANCELLED"' in text
    assert "demo" not in text
    assert "internal" not in text


@pytest.mark.parametrize(
    ("text", "revision"),
    [
        ("17", 17),
        ("0", 0),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", None),
        ("9" * 5000, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("1 ", None),
        ("\u0663", None),
        ("\xb2", None),
    ],
)
def test_a_last_event_id_that_makes_no_sense_is_none(text: str, revision: int | None) -> None:
    """What is no revision means: from the current state on."""
    assert read_last_event_id(text) == revision


async def test_a_job_is_followed_from_its_state_to_its_end(tmp_path: Path) -> None:
    """The first event comes at once, progress rises, `end` comes once and last; then the answer is complete."""
    async with running(tmp_path) as (app, worker):
        async with worker.job("j", "report", total=3) as job:
            page = Page(app, "/jobs/j")
            await until(lambda: page.events)
            for step in range(1, 4):
                job.advance()
                await until(lambda: page.events[-1][2]["progress"] == 100 * step // 3)  # noqa: B023
        told = await page.read()
    assert page.body.startswith(b"retry: 2000\n\n")
    assert page.is_over
    assert [name for _, name, _ in told] == ["progress"] * (len(told) - 1) + ["end"]
    assert [number for number, _, _ in told] == sorted({number for number, _, _ in told})
    assert told[-1][2]["status"] == "COMPLETED"
    assert page.headers[b"content-type"].startswith(b"text/event-stream")
    assert page.headers[b"cache-control"] == b"no-store"
    assert b"content-length" not in page.headers


async def test_a_page_that_comes_back_is_told_what_it_missed(tmp_path: Path) -> None:
    """It gets the state as it is now with all changes since; one that has seen the end gets 204, and no stream."""
    async with running(tmp_path) as (app, worker):
        async with worker.job("j", "report", total=2) as job:
            page = Page(app, "/jobs/j")
            await until(lambda: page.events)
            await page.leave()
            seen = page.events[-1][0]
            running_still = Page(app, "/jobs/j", str(seen))
            await until(lambda: running_still.events)
            await running_still.leave()
            assert running_still.events[0][:2] == (seen, "progress")
            job.advance()
        async with worker.job("j", "report"):
            pass
        told = await Page(app, "/jobs/j", str(seen)).read()
        assert [name for _, name, _ in told] == ["end"]
        assert told[0][0] > seen
        missed = [(one["attempt"], one["status"]) for one in told[0][2]["transitions"]]
        assert missed == [(1, "COMPLETED"), (2, "RUNNING"), (2, "COMPLETED")]
        again = Page(app, "/jobs/j", str(told[0][0]))
        assert await again.read() == []
        assert (again.status, again.body) == (204, b"")
        beyond = await Page(app, "/jobs/j", str(2**64 - 1)).read()
        assert [name for _, name, _ in beyond] == ["end"]
        (anew,) = await Page(app, "/jobs/j", "nonsense").read()
        assert (anew[:2], anew[2]["transitions"]) == (told[0][:2], [])


async def test_a_page_that_leaves_frees_its_watcher_at_once(tmp_path: Path) -> None:
    """Where only one may watch, the next can as soon as the first has left, without any news in between."""
    async with running(tmp_path) as (app, worker), worker.job("j", "report"):
        for _ in range(3):
            page = Page(app, "/jobs/j")
            await until(lambda: page.events)  # noqa: B023
            other = Page(app, "/jobs/j")
            assert await other.read() == []  # full: come again
            assert other.body == b"retry: 2000\n\n"
            await page.leave()
            assert not page.is_over


async def test_a_page_that_does_not_read_can_leave_too(tmp_path: Path) -> None:
    """The server's part ends although its last word could not be sent."""
    async with running(tmp_path) as (app, worker), worker.job("j", "report") as job:
        page = Page(app, "/jobs/j")
        await until(lambda: page.events)
        page.reads.clear()
        job.message("news")
        await asyncio.sleep(0.05)
        await page.leave()


async def test_who_may_not_see_a_job_learns_nothing(tmp_path: Path) -> None:
    """Another's job, one that is not there, and an id that none can have, have the same answer."""
    asked: list[str] = []

    def may_see(job: v1.Job) -> bool:
        asked.append(job.job_id)
        return False

    async with running(tmp_path, may_see=may_see) as (app, worker):
        async with worker.job("j", "report"):
            pass
        for job_id in ("j", "k", "x" * 5000):
            page = Page(app, f"/jobs/{job_id}")
            await page.read()
            assert (page.status, page.body) == (404, b'{"detail":"no such job"}')
    assert asked == ["j"]


async def test_an_idle_stream_shows_that_it_lives() -> None:
    """Comments come as often as the settings say, whether or not the client has anything to tell."""

    class Idle(Failing):
        async def watch_job(self, job_id: str, **options: object) -> AsyncIterator[v1.WatchJobResponse]:
            yield v1.WatchJobResponse(heartbeat=True)
            await asyncio.Event().wait()

    app = app_of(lambda: Idle(None), settings=WebSettings(stream_heartbeat_seconds=0.02))
    async with app.router.lifespan_context(app):
        page = Page(app, "/jobs/j")
        await until(lambda: page.body.count(b": still here\n\n") > 3)
        await page.leave()


async def test_the_end_is_the_end_whatever_the_watch_does_then() -> None:
    """A watch that goes on after the job's end, as one over a network may, does not hold up the answer."""

    class Endless(Failing):
        async def watch_job(self, job_id: str, **options: object) -> AsyncIterator[v1.WatchJobResponse]:
            yield v1.WatchJobResponse(job=v1.Job(job_id=job_id, revision=1, ended=True))
            await asyncio.Event().wait()

    app = app_of(lambda: Endless(None))
    async with app.router.lifespan_context(app):
        page = Page(app, "/jobs/j")
        assert [name for _, name, _ in await page.read()] == ["end"]
        assert page.is_over


@pytest.mark.parametrize("error", [Unavailable("later"), JobNotFound("removed"), EmitError("odd")])
async def test_a_watch_that_breaks_ends_the_answer_in_good_order(error: EmitError) -> None:
    """The head is sent by then; the browser comes back by itself, and learns more."""
    app = app_of(lambda: Failing(None, error))
    async with app.router.lifespan_context(app):
        page = Page(app, "/jobs/j")
        assert await page.read() == []
    assert (page.status, page.body, page.is_over) == (200, b"retry: 2000\n\n", True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unavailable("later"), 200),
        (RequestRejected("no handler serves jobs"), 500),
        (RequestRejected("too long", field="job_id"), 404),
        (EmitError("odd"), 500),
    ],
)
async def test_a_page_that_asks_in_an_outage_comes_back(error: EmitError, status: int) -> None:
    """A browser gives up for good after a 503, so where another try can help it is told to make one, and no more."""
    app = app_of(lambda: Failing(error, error))
    async with app.router.lifespan_context(app):
        page = Page(app, "/jobs/j")
        await page.read()
    assert page.status == status
    assert (page.body == b"retry: 2000\n\n") == (status == 200)


async def test_an_outage_shows_nobody_anothers_job() -> None:
    """Where it could not be asked before, a page is told nothing that it may not see, whoever answers by then."""

    class Recovering(Failing):
        async def watch_job(self, job_id: str, **options: object) -> AsyncIterator[v1.WatchJobResponse]:
            yield v1.WatchJobResponse(job=v1.Job(job_id=job_id, revision=1, labels={"user": "u2"}))
            await asyncio.Event().wait()

    web = EmitdFastAPI(lambda: Recovering(Unavailable("later")))
    app = FastAPI(lifespan=web.lifespan)
    web.install(app)

    @app.get("/jobs/{job_id}")
    async def follow(job_id: str, events: Annotated[JobEvents, Depends(web.job_events)]) -> Response:
        return await events(job_id, may_see=lambda job: job.labels.get("user") == "u1")

    async with app.router.lifespan_context(app):
        page = Page(app, "/jobs/j")
        assert await page.read() == []
    assert (page.status, page.body) == (200, b"retry: 2000\n\n")


async def test_a_bug_in_what_describes_a_job_is_not_hidden(tmp_path: Path) -> None:
    """It ends the stream as an exception that the server logs, and frees the watcher."""

    def describe(job: v1.Job) -> Any:
        raise ZeroDivisionError

    async with running(tmp_path) as (app, worker), worker.job("j", "report"):

        @app.get("/odd/{job_id}")
        async def odd(
            job_id: str, events: Annotated[JobEvents, Depends(app.state.web.job_events)]
        ) -> Response:
            return await events(job_id, may_see=anyone, describe=describe)

        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await Page(app, "/odd/j").read()


async def test_the_stop_ends_jobs_first_and_then_streams(tmp_path: Path) -> None:
    """What `on_stop` ends is told to its page as the end; streams of other jobs just end, for the page to come back."""
    done = asyncio.Event()
    async with running(tmp_path, on_stop=lambda: stop_job()) as (app, worker):

        async def report() -> None:
            async with worker.job("mine", "report"):
                await asyncio.Event().wait()

        mine = asyncio.create_task(report())

        async def stop_job() -> None:
            mine.cancel()
            await asyncio.wait([mine])
            done.set()

        while await worker.get_job("mine") is None:
            await asyncio.sleep(0.01)
        page = Page(app, "/jobs/mine")
        await until(lambda: page.events)
        await app.state.web.stop()
        told = await page.read()
        assert done.is_set()
        assert (told[-1][1], told[-1][2]["failure_reason"]) == ("end", "CANCELLED")
        assert [name for _, name, _ in told].count("end") == 1
        changes = [change["status"] for _, _, data in told for change in data["transitions"]]
        assert changes.count("FAILED") == 1
        async with worker.job("other", "report"):
            late = Page(app, "/jobs/other")
            assert [name for _, name, _ in await late.read()] in ([], ["progress"])
            assert late.is_over
        await app.state.web.stop()  # once is enough


@pytest.mark.parametrize("has_ended", [True, False])
async def test_the_last_word_goes_on_from_the_last_event(has_ended: bool) -> None:
    """At the stop the job is asked for once more, after what the page has seen, and told only if it has ended."""
    asked: list[object] = []

    class Stopped(Failing):
        async def watch_job(
            self, job_id: str, *, after_revision: int | None = None, **options: object
        ) -> AsyncIterator[v1.WatchJobResponse]:
            asked.append(after_revision)
            ended = len(asked) > 1 and has_ended
            yield v1.WatchJobResponse(job=v1.Job(job_id=job_id, revision=2 + len(asked), ended=ended))
            await asyncio.Event().wait()

    app = app_of(lambda: Stopped(None))
    async with app.router.lifespan_context(app):
        page = Page(app, "/jobs/j", "1")
        await until(lambda: page.events)
        await app.state.web.stop()
        told = [(number, name) for number, name, _ in await page.read()]
    assert told == [(3, "progress"), (4, "end")][: 1 + has_ended]
    assert asked == [1, 3]
    assert page.is_over


async def test_the_end_of_the_lifespan_is_a_stop_too(tmp_path: Path) -> None:
    """Where no signal came, `on_stop` is done before the logger is closed."""
    open_then: list[bool] = []

    async def on_stop() -> None:
        web.logger.info("stopping")
        open_then.append(web.logger is not None)

    async with running(tmp_path, on_stop=on_stop) as (app, _):
        web = app.state.web
    assert open_then == [True]


async def test_a_stop_does_not_wait_for_a_page_that_does_not_read(tmp_path: Path) -> None:
    """After `stream_end_seconds` the stream is given up."""
    settings = WebSettings(stream_end_seconds=0.05)
    async with running(tmp_path, settings=settings) as (app, worker), worker.job("j", "report"):
        page = Page(app, "/jobs/j")
        await until(lambda: page.events)
        page.reads.clear()
        await app.state.web.stop()
        await asyncio.wait_for(page.task, 10)


@pytest.mark.parametrize("fault", ["raises", "hangs"])
async def test_trouble_in_on_stop_holds_up_no_stream(fault: str, tmp_path: Path) -> None:
    """One that raises or takes too long is logged, and the streams end."""

    async def on_stop() -> None:
        if fault == "raises":
            raise ZeroDivisionError
        await asyncio.Event().wait()

    settings = WebSettings(on_stop_seconds=0.05)
    async with running(tmp_path, on_stop=on_stop, settings=settings) as (app, worker), worker.job("j", "r"):
        page = Page(app, "/jobs/j")
        await until(lambda: page.events)
        await asyncio.wait_for(app.state.web.stop(), 10)
        await page.read()
        assert page.is_over
        assert await worker.flush(10)
        assert worker.stats()["sent"] == 2  # RUNNING, and a log line on the trouble


async def test_a_signal_ends_streams_and_goes_on_to_the_server(tmp_path: Path) -> None:
    """SIGTERM reaches whoever handled it before, and the streams without waiting for the end of the lifespan."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        async with running(tmp_path) as (app, worker), worker.job("j", "report"):
            page = Page(app, "/jobs/j")
            await until(lambda: page.events)
            signal.raise_signal(signal.SIGTERM)
            await page.read()
            assert page.is_over
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM, signal.SIGTERM]


def test_signals_that_nobody_handles_stay_as_they_are() -> None:
    """A signal that ends the process, or is ignored, does so within the block too; a thread changes nothing."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        for kept in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, kept)
            with on_stop_signals(lambda: None):
                assert signal.getsignal(signal.SIGTERM) is kept
    finally:
        signal.signal(signal.SIGTERM, before)
    interrupt = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def elsewhere() -> None:
        with on_stop_signals(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [interrupt]


def test_a_handler_that_came_later_is_not_taken_away() -> None:
    """Leaving the block puts back the old handlers, but not over one that somebody else set in between."""

    def own(number: int, frame: object) -> None: ...

    def later(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGINT, own)  # a shell in the background has its programs ignore it
    try:
        with on_stop_signals(lambda: None):
            assert signal.getsignal(signal.SIGINT) is not own
        assert signal.getsignal(signal.SIGINT) is own
        with on_stop_signals(lambda: None):
            signal.signal(signal.SIGINT, later)
        assert signal.getsignal(signal.SIGINT) is later
    finally:
        signal.signal(signal.SIGINT, before)
