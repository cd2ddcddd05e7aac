"""The webhook handler: its settings, what it posts, and what an answer means for the records."""

import asyncio
import json
import logging
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from emitd_handlers.errors import HandlerError, HandlerUnavailable, RecordInvalid, RetryableError
from emitd_handlers.outcome import Committed, Refused
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord
from emitd_handlers.record_json import encode_record
from emitd_handlers.secret_text import SecretText
from emitd_handlers.settings import Delivery
from emitd_handlers.testing import make_record
from emitd_handlers.webhook.handler import MAX_REPLY_BYTES, WebhookHandler, WebhookSettings, WebhookUrl
from emitd_handlers.webhook.message import (
    MAX_RETRY_AFTER_SECONDS,
    ROUNDING_SECONDS,
    Reply,
    encode_body,
    idempotency_key,
    retry_after_seconds,
    split,
)
from emitd_server.config.loader import load_config
from emitd_server.errors import ConfigError
from support.processes.http_receiver import CLOSE, HANG, Answer, HttpReceiver, Received

ORIGIN = "https://logs.example.com"
#: 2026-11-23T03:39:00Z
NOW = 1_795_405_140.0
#: The first answers of a test may take as long; nothing here waits for it.
LONG_SECONDS = 60.0


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


@asynccontextmanager
async def started(url: str, **settings: Any) -> AsyncIterator[WebhookHandler]:
    headers = {name: SecretText(value) for name, value in settings.pop("headers", {}).items()}
    own = WebhookSettings(url=WebhookUrl(url), headers=headers, **settings)
    handler = WebhookHandler(own, name="hook")
    await handler.start()
    try:
        yield handler
    finally:
        await handler.stop()


def lines(*messages: str) -> list[LogRecord]:
    return [make_record(message=message) for message in messages]


def errors(outcomes: Any) -> list[HandlerError | None]:
    return [outcome.error if isinstance(outcome, Refused) else None for outcome in outcomes]


def first_error(outcomes: Any) -> HandlerError:
    error = errors(outcomes)[0]
    assert error is not None
    return error


# The record's form


def test_a_log_line_has_the_names_of_the_contract() -> None:
    """Every member that is set stands there, times in ISO 8601 with nine decimals, in this order."""
    record = LogRecord(
        Level.WARNING,
        message="slow",
        record_id="r1",
        time_unix_nano=int(NOW) * 1_000_000_000 + 1,
        received_unix_nano=int(NOW) * 1_000_000_000 + 2,
        source="shop",
        attributes_json='{"ms":1200}',
        trace_id=bytes(range(16)),
        span_id=bytes(8),
    )
    assert encode_record(record).decode() == (
        '{"record_id":"r1","timestamp":"2026-11-23T03:39:00.000000001Z","level":"WARNING","message":"slow",'
        '"source":"shop","attributes":{"ms":1200},"trace_id":"000102030405060708090a0b0c0d0e0f",'
        '"span_id":"0000000000000000","received_at":"2026-11-23T03:39:00.000000002Z"}'
    )


def test_numbers_arrive_as_they_were_sent() -> None:
    """Free-form JSON is embedded and not decoded: no 64-bit integer and no decimal is rounded."""
    text = '{"id":12345678901234567890123,"amount":0.10000000000000000001,"e":1E+2}'
    event = AuditEvent("e1", "user.login", "u1", "192.0.2.1", text)
    record = make_record(Level.AUDIT, payload=event, attributes_json=text)
    assert encode_record(record).decode().count(text) == 2


def test_an_audit_event_is_whole() -> None:
    """The payload's members stand under `audit`, its details as an object."""
    event = AuditEvent("e1", "user.login", "u1", "192.0.2.1", '{"method":"password"}')
    sent = json.loads(encode_record(make_record(Level.AUDIT, payload=event)))
    assert sent["level"] == "AUDIT"
    assert sent["audit"] == {
        "event_id": "e1",
        "event_name": "user.login",
        "user_id": "u1",
        "source_ip": "192.0.2.1",
        "details": {"method": "password"},
    }


def test_a_job_report_is_whole() -> None:
    """The payload's members stand under `job`; what the report leaves unchanged is absent, 0 percent is not."""
    full = JobStatus(
        "j1", "backup", JobState.FAILED, 0, '{"a":1}', {"k": "v"}, "OOM", "No memory.", 2, False, 30
    )
    sent = json.loads(encode_record(make_record(Level.JOB_STATUS, payload=full)))
    assert sent["job"] == {
        "job_id": "j1",
        "job_type": "backup",
        "status": "FAILED",
        "attempt": 2,
        "progress": 0,
        "details": {"a": 1},
        "labels": {"k": "v"},
        "failure_reason": "OOM",
        "failure_message": "No memory.",
        "lease_seconds": 30,
    }
    bare = JobStatus("j1", "backup", JobState.RUNNING)
    sent = json.loads(encode_record(make_record(Level.JOB_STATUS, payload=bare)))
    assert sent["job"] == {"job_id": "j1", "job_type": "backup", "status": "RUNNING", "attempt": 1}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"attributes_json": "{"}, "attributes_json"),
        ({"attributes_json": "[1]"}, "attributes_json"),
        ({"attributes_json": " "}, "attributes_json"),
        ({"time_unix_nano": 10**21}, "time_unix_nano"),
        ({"message": "\ud800"}, ""),
    ],
)
def test_a_record_that_cannot_be_sent_names_its_field(fields: dict[str, Any], field: str) -> None:
    """What a record made in process can have wrong is refused for good."""
    with pytest.raises(RecordInvalid) as raised:
        encode_record(make_record(**fields))
    assert raised.value.field == field


@pytest.mark.parametrize("limit", range(24, 60))
def test_runs_are_as_long_as_they_may_be(limit: int) -> None:
    """Each body has at most its size, all but the last could not take another record, and order is kept."""
    items = [(number, b'"%s"' % (b"x" * (number % 7))) for number in range(50)]
    runs = list(split(items, limit))
    assert [item for run in runs for item in run] == items
    sizes = [len(encode_body([line for _, line in run])) for run in runs]
    assert max(sizes) <= limit
    for run, following in pairwise(runs):
        assert len(encode_body([line for _, line in [*run, following[0]]])) > limit


def test_a_key_tells_a_repetition_from_an_equal_request() -> None:
    """The same body has one key until it is settled, and another afterwards."""
    assert idempotency_key(b"body", 1) == idempotency_key(b"body", 1)
    assert len({idempotency_key(b"body", 1), idempotency_key(b"body", 2), idempotency_key(b"other", 1)}) == 3


# What an answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_takes_the_records(status: int) -> None:
    """There is nothing to refuse."""
    assert Reply(status).refusal(ORIGIN, lambda: NOW) is None


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_a_passing_failure_is_retryable(status: int) -> None:
    """The handler is unavailable, and the receiver's wait is passed on."""
    error = Reply(status, "7").refusal(ORIGIN, lambda: NOW)
    assert isinstance(error, HandlerUnavailable)
    assert error.retry_after_seconds == 7 + ROUNDING_SECONDS
    assert str(error).startswith(f"{ORIGIN} answered {status}")


@pytest.mark.parametrize("status", [100, 301, 302, 307, 308, 400, 401, 403, 404, 405, 410, 413, 415, 422])
def test_any_other_answer_refuses_for_good(status: int) -> None:
    """The same request would fail again; only what is wrong with the records is called their fault."""
    error = Reply(status, "7").refusal(ORIGIN, lambda: NOW)
    assert isinstance(error, HandlerError)
    assert not isinstance(error, RetryableError)
    assert isinstance(error, RecordInvalid) == (status in {400, 413, 422})


def test_a_redirect_says_what_to_do() -> None:
    """The message names the status in HTTP's own words, and the setting."""
    error = Reply(301).refusal(ORIGIN, lambda: NOW)
    assert str(error) == (
        f"{ORIGIN} answered 301 Moved Permanently; redirects are not followed: set `url` to the new address"
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1 + ROUNDING_SECONDS),
        (" 30 ", 30 + ROUNDING_SECONDS),
        ("999999", MAX_RETRY_AFTER_SECONDS),
        ("9" * 5000, MAX_RETRY_AFTER_SECONDS),
        ("Mon, 23 Nov 2026 03:39:20 GMT", 20 + ROUNDING_SECONDS),
        ("Mon, 23 Nov 2026 03:39:20 -0000", 20 + ROUNDING_SECONDS),
        ("Monday, 23-Nov-26 03:39:20 GMT", 20 + ROUNDING_SECONDS),
        ("Mon, 23 Nov 2026 03:38:00 GMT", None),
        ("Mon, 23 Nov 9999 03:39:20 GMT", MAX_RETRY_AFTER_SECONDS),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("", None),
        ("Mon, 99 Nov 2026 03:39:20 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds and HTTP dates are understood, up to a limit; the past, zero and nonsense say nothing."""
    assert retry_after_seconds(value, lambda: NOW) == seconds


# Settings


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://host/x", "'ftp' is no scheme of a webhook"),
        ("host/x", "has no scheme"),
        ("", "has no scheme"),
        ("http:/host", "names no host; expected http://HOST"),
        ("https://", "names no host"),
        ("https://:80/", "names no host"),
        ("https://host:99999/", "malformed"),
        ("https://host:x/", "malformed"),
        ("https://[::1/", "malformed"),
        ("https://host/a b", "white space"),
        ("https://host/a\r\nX: y", "white space"),
        ("https://host/#part", "fragment"),
    ],
)
def test_a_bad_url_is_refused(url: str, problem: str) -> None:
    """At construction, with what is wrong and what is expected."""
    with pytest.raises(ValueError, match=problem):
        WebhookUrl(url)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://logs.example.com/in?x=1", "https://logs.example.com"),
        ("http://u:p@[::1]:8080/in", "http://[::1]:8080"),
    ],
)
def test_a_url_shows_only_its_origin(url: str, origin: str) -> None:
    """Neither user nor path nor query is in its texts; all of it is there to be used."""
    made = WebhookUrl(url)
    assert (str(made), repr(made)) == (origin, f"WebhookUrl('{origin}/***')")
    assert made.reveal() == url


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("Bad Name", "s3cret", "is no name of a header"),
        ("X\n", "s3cret", "is no name of a header"),
        ("Content-Length", "s3cret", "is set by the handler itself"),
        ("idempotency-key", "s3cret", "is set by the handler itself"),
        ("Authorization", "s3cret\r\nX: y", "must be printable ASCII"),
        ("Authorization", "s3cret\n", "must be printable ASCII"),
        ("Authorization", "", "must be printable ASCII"),
        ("Authorization", "s3crét", "must be printable ASCII"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(name: str, value: str, problem: str) -> None:
    """The message names the header and not its value."""
    with pytest.raises(ValueError, match=problem) as raised:
        WebhookSettings(url=WebhookUrl(ORIGIN), headers={name: SecretText(value)})
    assert "s3cr" not in str(raised.value)


def test_no_setting_shows_a_secret() -> None:
    """The settings can be printed."""
    url = WebhookUrl("https://u:s3cret@host/s3cret?key=s3cret")
    settings = WebhookSettings(url=url, headers={"Authorization": SecretText("Bearer s3cret")})
    assert "s3cret" not in repr(settings) + str(settings) + repr(vars(WebhookHandler(settings)).values())


def test_an_entry_of_the_file_is_read(tmp_path: Path) -> None:
    """Values of the environment stand in headers and URL; a relative `ca_file` is relative to the file."""
    (tmp_path / "c.yml").write_text(
        "handlers:\n  hook:\n    type: webhook\n    url: https://host/${KEY}\n"
        "    headers: {Authorization: 'Bearer ${KEY}'}\n    ca_file: ca.pem\n"
    )
    (entry,) = load_config(tmp_path / "c.yml", environ={"KEY": "s3cret"}).handlers
    settings = entry.settings
    assert isinstance(settings, WebhookSettings)
    assert settings.url == WebhookUrl("https://host/s3cret")
    assert settings.headers == {"Authorization": SecretText("Bearer s3cret")}
    assert settings.ca_file == tmp_path / "ca.pem"
    assert entry.build().default_delivery is Delivery.QUEUED


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{type: webhook}", "handlers.hook.url: is missing; expected a URL, such as https://HOST"),
        (
            "{type: webhook, url: 'ftp://host'}",
            "handlers.hook.url: 'ftp' is no scheme of a webhook; expected http",
        ),
        ("{type: webhook, url: '${KEY}'}", "handlers.hook.url: found a value from ${KEY}"),
        ("{type: webhook, url: 'http://h', headers: {A: 1}}", "handlers.hook.headers"),
        ("{type: webhook, url: 'http://h', headers: Bearer s3cret}", "handlers.hook.headers"),
        ("{type: webhook, url: 'http://h', headers: {A: '${KEY}\n'}}", "handlers.hook"),
        ("{type: webhook, url: 'http://h', max_body_bytes: 0}", "handlers.hook.max_body_bytes"),
    ],
)
def test_a_bad_entry_is_reported_without_secrets(entry: str, problem: str, tmp_path: Path) -> None:
    """The problem names the key; a value from the environment is not repeated."""
    (tmp_path / "c.yml").write_text(f"handlers:\n  hook: {entry}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "c.yml", environ={"KEY": "s3\ncret"})
    assert problem in str(raised.value)
    assert "cret" not in str(raised.value)


def test_without_httpx_the_configuration_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The problem of the entry names the extra, also where the entry holds secrets."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "emitd_handlers.webhook.handler")
    text = "handlers:\n  hook: {type: webhook, url: 'https://host/', headers: {A: '${KEY}'}}\n"
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(ConfigError, match=r"handlers.hook.type: .*pip install 'emitd\[webhook\]'"):
        load_config(tmp_path / "c.yml", environ={"KEY": "s3cret"})


# Requests


async def test_a_batch_is_one_post(receiver: HttpReceiver) -> None:
    """Its content type, user agent and configured headers are there, and the records in order."""
    async with started(receiver.url + "?key=1", headers={"Authorization": "Bearer t"}) as handler:
        assert list(await handler.emit_batch(lines("1", "2", "3"))) == [Committed()] * 3
    (request,) = receiver.requests
    assert (request.method, request.target) == ("POST", "/ingest?key=1")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["user-agent"] == "emitd"
    assert request.messages == ["1", "2", "3"]
    assert all(record["record_id"] for record in request.records)


async def test_requests_share_a_connection(receiver: HttpReceiver) -> None:
    """An answer's body is read, and so its connection can be used again; one that is too long is not."""
    async with started(receiver.url) as handler:
        receiver.will(Answer(body=b"x" * 1000), Answer(500, body=b"x" * 1000))
        for _ in range(3):
            await handler.emit_batch(lines("1"))
        assert receiver.connection_count == 1
        receiver.will(Answer(body=b"x" * (MAX_REPLY_BYTES * 100)))
        for _ in range(2):
            assert list(await handler.emit_batch(lines("1"))) == [Committed()]
        assert receiver.connection_count == 2


async def test_a_subclass_changes_the_form(receiver: HttpReceiver) -> None:
    """`format` alone decides what a record looks like; a record that it fails on harms no other."""

    class Own(WebhookHandler):
        def format(self, record: LogRecord) -> bytes:
            if record.message == "bad":
                raise KeyError("x")
            return json.dumps({"message": record.message.upper()}).encode()

    handler = Own(WebhookSettings(url=WebhookUrl(receiver.url)))
    await handler.start()
    outcomes = await handler.emit_batch(lines("a", "bad", "b"))
    await handler.stop()
    assert receiver.taken_messages == ["A", "B"]
    assert [type(outcome) for outcome in outcomes] == [Committed, Refused, Committed]


async def test_a_large_batch_goes_out_in_pieces(receiver: HttpReceiver) -> None:
    """No body is larger than `max_body_bytes`; a record that is too large by itself is refused for good."""
    records = lines(*map(str, range(20)), "x" * 2000, "last")
    async with started(receiver.url, max_body_bytes=1500) as handler:
        outcomes = await handler.emit_batch(records)
    assert len(receiver.requests) > 2
    assert max(len(request.body) for request in receiver.requests) <= 1500
    assert receiver.taken_messages == [*map(str, range(20)), "last"]
    refusals = [(place, error) for place, error in enumerate(errors(outcomes)) if error]
    assert [place for place, _ in refusals] == [20]
    assert isinstance(refusals[0][1], RecordInvalid)
    assert "max_body_bytes: 1500" in str(refusals[0][1])


async def test_a_413_halves_the_batch(receiver: HttpReceiver) -> None:
    """Halves are posted, in order, until the receiver takes them; a single record it does not take is refused."""

    def at_most_two(request: Received) -> Answer:
        too_large = len(request.records) > 2 or request.messages == ["fat"] or "fat" in request.messages
        return Answer(413 if too_large else 200)

    receiver.plan(at_most_two)
    async with started(receiver.url) as handler:
        outcomes = await handler.emit_batch(lines("1", "2", "3", "fat", "5", "6", "7"))
    assert receiver.taken_messages == ["1", "2", "3", "5", "6", "7"]
    (error,) = [error for error in errors(outcomes) if error]
    assert isinstance(error, RecordInvalid)
    assert isinstance(outcomes[3], Refused)
    assert "413" in str(error)


async def test_after_a_passing_failure_the_rest_waits(receiver: HttpReceiver) -> None:
    """Pieces before it are committed, it and those after it are refused as retryable and not sent."""
    receiver.will(Answer(), Answer(503))
    records = lines(*map(str, range(20)))
    async with started(receiver.url, max_body_bytes=1500) as handler:
        outcomes = await handler.emit_batch(records)
        assert len(receiver.requests) == 2
        count = len(receiver.taken_messages)
        refusals = errors(outcomes)
        assert refusals[:count] == [None] * count
        assert all(isinstance(error, HandlerUnavailable) for error in refusals[count:])
        assert list(await handler.emit_batch(records[count:])) == [Committed()] * (20 - count)
    assert receiver.taken_messages == list(map(str, range(20)))


async def test_a_repeated_request_has_the_same_key(receiver: HttpReceiver) -> None:
    """Until it is answered for good; an equal batch afterwards is another request."""
    receiver.will(Answer(500), CLOSE, Answer(429))
    records = lines("1", "2")
    async with started(receiver.url) as handler:
        for _ in range(5):
            await handler.emit_batch(records)
    keys = [request.headers["idempotency-key"] for request in receiver.requests]
    assert len(keys) == 5
    assert len(set(keys[:4])) == 1
    assert keys[4] != keys[3]


async def test_a_redirect_is_not_followed(receiver: HttpReceiver) -> None:
    """Records go where the configuration says, and nowhere else."""
    receiver.will(Answer(307, {"Location": receiver.url}))
    async with started(receiver.url) as handler:
        error = first_error(await handler.emit_batch(lines("1")))
    assert not isinstance(error, RetryableError)
    assert len(receiver.requests) == 1


async def test_proxies_of_the_environment_are_ignored(
    receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a proxy nor a .netrc decides where records and tokens go."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with started(receiver.url) as handler:
        assert list(await handler.emit_batch(lines("1"))) == [Committed()]


async def test_a_user_in_the_url_becomes_a_header(receiver: HttpReceiver) -> None:
    """HTTP's basic authentication; the user is not in the request's target."""
    async with started(receiver.url.replace("://", "://u:p@")) as handler:
        await handler.emit_batch(lines("1"))
    assert receiver.requests[0].headers["authorization"] == "Basic dTpw"


# Failures of the connection


async def test_a_receiver_that_is_away_is_retryable(receiver: HttpReceiver) -> None:
    """A refused connection names the receiver's host and why."""
    receiver.go_away()
    async with started(receiver.url + "?key=s3cret", headers={"Authorization": "s3cret"}) as handler:
        error = first_error(await handler.emit_batch(lines("1")))
        assert isinstance(error, HandlerUnavailable)
        assert str(error).startswith(f"http://127.0.0.1:{receiver.port} cannot be reached: ")
        assert "s3cret" not in str(error)
        receiver.come_back()
        assert list(await handler.emit_batch(lines("2"))) == [Committed()]


async def test_a_receiver_that_closes_is_retryable(receiver: HttpReceiver) -> None:
    """A connection that ends before the answer leaves the batch untaken."""
    receiver.will(CLOSE)
    async with started(receiver.url) as handler:
        error = first_error(await handler.emit_batch(lines("1")))
        assert isinstance(error, HandlerUnavailable)
        assert str(error) == f"http://127.0.0.1:{receiver.port} gave no answer: RemoteProtocolError"
        assert list(await handler.emit_batch(lines("1"))) == [Committed()]


async def test_a_receiver_that_hangs_is_retryable(receiver: HttpReceiver) -> None:
    """After `request_timeout_seconds` the request is given up."""
    receiver.will(HANG)
    async with started(receiver.url, request_timeout_seconds=0.2) as handler:
        error = first_error(await handler.emit_batch(lines("1")))
        assert isinstance(error, HandlerUnavailable)
        assert str(error) == f"http://127.0.0.1:{receiver.port} did not answer within 0.2 s"
        assert list(await handler.emit_batch(lines("1"))) == [Committed()]


async def test_a_status_counts_even_if_the_answer_never_ends(receiver: HttpReceiver) -> None:
    """The records were taken, as the receiver said, whatever becomes of the rest of its answer."""
    receiver.will(Answer(200, body=b"x", never_ends=True), Answer(400, body=b"x", never_ends=True))
    async with started(receiver.url, request_timeout_seconds=0.2) as handler:
        assert list(await handler.emit_batch(lines("1"))) == [Committed()]
        assert isinstance(first_error(await handler.emit_batch(lines("2"))), RecordInvalid)


async def test_stop_ends_a_request_that_hangs(receiver: HttpReceiver) -> None:
    """The batch under way is refused, and no task is left."""
    receiver.will(HANG)
    before = asyncio.all_tasks()
    async with started(receiver.url, request_timeout_seconds=LONG_SECONDS) as handler:
        under_way = asyncio.create_task(handler.emit_batch(lines("1")))
        await receiver.wait_until(lambda: len(receiver.requests) == 1)
        await handler.stop()
        async with asyncio.timeout(LONG_SECONDS / 2):
            assert isinstance(first_error(await under_way), HandlerUnavailable)
    assert not asyncio.all_tasks() - before


async def test_emit_posts_one_record(receiver: HttpReceiver) -> None:
    """Returning means taken; a refusal is raised."""
    receiver.will(Answer(), Answer(400))
    async with started(receiver.url) as handler:
        await handler.emit(make_record(message="1"))
        with pytest.raises(RecordInvalid, match="answered 400 Bad Request"):
            await handler.emit(make_record(message="2"))


async def test_a_handler_can_be_started_again(receiver: HttpReceiver) -> None:
    """After `stop` it refuses, after another `start` it posts."""
    async with started(receiver.url) as handler:
        await handler.stop()
        with pytest.raises(HandlerUnavailable, match="'hook' is stopped"):
            await handler.emit_batch(lines("1"))
        await handler.start()
        assert list(await handler.emit_batch(lines("1"))) == [Committed()]


async def test_httpx_logs_nothing_of_our_requests(
    receiver: HttpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lines hold the whole URL, and would feed on themselves where logs go to emitd; others' lines stay."""
    with caplog.at_level(logging.DEBUG):
        async with started(
            receiver.url + "/s3cret?key=s3cret", headers={"Authorization": "s3cret"}
        ) as handler:
            await handler.emit_batch(lines("1"))
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(receiver.url + "/other")
    told = [record.getMessage() for record in caplog.records if record.name == "httpx"]
    assert len([line for line in told if "/other" in line]) == 1
    assert "s3cret" not in caplog.text


# TLS


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[HttpReceiver]:
    """A receiver whose certificate no authority knows but `cert.pem`."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=receiver"
    )
    try:
        subprocess.run(
            [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed: there is no certificate to test with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HttpReceiver(context) as receiver:
        yield receiver


async def test_an_unknown_certificate_is_refused(tls: HttpReceiver) -> None:
    """Nothing is posted to a receiver that cannot prove who it is; the message says why."""
    async with started(tls.url) as handler:
        error = first_error(await handler.emit_batch(lines("1")))
    assert isinstance(error, HandlerUnavailable)
    assert "certificate verify failed" in str(error)
    assert not tls.requests


async def test_ca_file_makes_a_certificate_known(tls: HttpReceiver, tmp_path: Path) -> None:
    """A receiver with a certificate of one's own authority is posted to."""
    async with started(tls.url, ca_file=tmp_path / "cert.pem") as handler:
        assert list(await handler.emit_batch(lines("1"))) == [Committed()]


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_bad_ca_file_is_told_at_start(content: str | None, tmp_path: Path) -> None:
    """The message names the key and the file."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(HandlerUnavailable, match=r"ca_file: '.*ca\.pem' cannot be used"):
        async with started(ORIGIN, ca_file=file):
            pass
