"""`WebhookHandler`: posts records as JSON to an HTTP receiver, many in one request.

    POST /ingest   {"records":[{"record_id":"...","timestamp":"...","level":"INFO","message":"..."}, ...]}

Every record arrives at least once, in order, as long as the queue holds it: what the receiver cannot take now is
refused as retryable, and the queue offers it again. `webhook_body` makes the JSON, `webhook_reply` says what an
answer means; here is the sending. It needs the extra `emitd[webhook]`.
"""

import asyncio
import logging
import re
import ssl
import time
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import ClassVar, TypeAlias

from msgspec import field

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerError, HandlerUnavailable, RecordInvalid, RetryableError
from emitd_handlers.outcome import Committed, Outcome, Refused
from emitd_handlers.record import LogRecord
from emitd_handlers.secret_text import SecretText
from emitd_handlers.settings import (
    Delivery,
    DeliverySettings,
    HandlerSettings,
    PositiveInt,
    PositiveSeconds,
    QueuedSettings,
)
from emitd_handlers.webhook.body import encode_body, encode_record, idempotency_key, split
from emitd_handlers.webhook.response import PAYLOAD_TOO_LARGE, Reply
from emitd_handlers.webhook.url import WebhookUrl

try:
    import httpx
except ModuleNotFoundError as error:
    raise ImportError("the webhook handler needs httpx: pip install 'emitd[webhook]'") from error

__all__ = ["WebhookHandler", "WebhookSettings"]

#: So much of an answer is read, so that its connection can be used again; a longer one costs the connection.
MAX_REPLY_BYTES = 64 * 1024

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
#: Headers that say how a request is framed, or that each request has its own of.
_OWN_HEADERS = frozenset(
    {"connection", "content-length", "content-type", "idempotency-key", "transfer-encoding"}
)
_COMMITTED = Committed()

#: Records as JSON, each with its place in the batch.
_Parcel: TypeAlias = Sequence[tuple[int, bytes]]


class WebhookSettings(HandlerSettings, frozen=True, kw_only=True):
    """What an entry of type `webhook` takes beside the common keys."""

    #: Where to post to: `http://...` or `https://...`. Messages show its scheme, host and port only.
    url: WebhookUrl
    #: Headers of every request, such as `Authorization`. Their values are never shown.
    headers: dict[str, SecretText] = field(default_factory=dict)
    #: How long one request may take, from connecting to the answer, in seconds.
    request_timeout_seconds: PositiveSeconds = 10.0
    #: The largest body, in bytes; a batch that would make a larger one goes out in several requests.
    max_body_bytes: PositiveInt = 1_048_576
    #: A PEM file with the certificate authorities to trust instead of those that come with httpx.
    ca_file: Path | None = None

    #: A batch is offered again for about four minutes, and no wait is longer than a minute, whatever the receiver asks.
    delivery: Delivery | DeliverySettings | None = QueuedSettings(max_retries=12, retry_max_seconds=60.0)

    def __post_init__(self) -> None:
        """Raise ValueError, without the value, if a header cannot be sent."""
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"headers: {name!r} is no name of a header")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"headers: '{name}' is set by the handler itself; remove it")
            if not _HEADER_VALUE.fullmatch(value.reveal()):
                raise ValueError(f"headers: the value of '{name}' must be printable ASCII on one line")


class WebhookHandler(BaseLogHandler):
    """Posts records to one receiver. Override `format` for records of another form."""

    Settings: ClassVar[type[HandlerSettings]] = WebhookSettings
    settings: WebhookSettings

    def __init__(self, settings: WebhookSettings, *, name: str = "") -> None:
        """Raise httpx.InvalidURL if httpx cannot use the URL, such as for its host's name."""
        super().__init__(settings, name=name)
        httpx.URL(settings.url.reveal())
        self._origin = settings.url.origin
        self._client: httpx.AsyncClient | None = None
        #: Requests whose fate is known; see `idempotency_key`.
        self._settled_count = 0

    async def start(self) -> None:
        """Make the HTTP client; the first connection is made by the first request.

        Raises HandlerUnavailable if `ca_file` cannot be used.
        """
        await super().start()
        if self._client is not None:
            return
        logging.getLogger("httpx").addFilter(_is_of_others)
        headers = {"user-agent": "emitd", **self._secret_headers(), "content-type": "application/json"}
        self._client = httpx.AsyncClient(
            headers=headers,
            verify=self._authorities(),
            timeout=None,  # httpx has timeouts for each step; ours is for the whole, see `_exchange`
            follow_redirects=False,  # records must not go where nobody sent them
            # A variable such as HTTPS_PROXY, or a .netrc, must not decide where records and tokens go.
            trust_env=False,
        )

    async def stop(self) -> None:
        """Close the connections."""
        self._stopped = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        await super().stop()

    def format(self, record: LogRecord) -> bytes:
        """Return the record as one JSON object. Raises RecordInvalid, naming the field."""
        return encode_record(record)

    async def emit(self, record: LogRecord) -> None:
        """Post one record."""
        (outcome,) = await self.emit_batch([record])
        if isinstance(outcome, Refused):
            raise outcome.error

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Post the records, in order, in as few requests as `max_body_bytes` and the receiver allow.

        Where the receiver cannot take a request now, what comes after it is not sent either: order is kept, and
        a receiver in trouble is left alone.
        """
        self.refuse_if_stopped()
        outcomes: list[Outcome] = [_COMMITTED] * len(records)
        waiting = deque(split(self._formatted(records, outcomes), self.settings.max_body_bytes))
        while waiting:
            parcel = waiting.popleft()
            refusal, status = await self._post(parcel)
            if status == PAYLOAD_TOO_LARGE and len(parcel) > 1:
                middle = len(parcel) // 2
                waiting.extendleft((parcel[middle:], parcel[:middle]))
                continue
            if refusal is None:
                continue
            refused = [parcel]
            if isinstance(refusal, RetryableError):
                refused.extend(waiting)
                waiting.clear()
            for place, _ in (item for each in refused for item in each):
                outcomes[place] = Refused(refusal)
        return outcomes

    def _formatted(self, records: Sequence[LogRecord], outcomes: list[Outcome]) -> _Parcel:
        """Return the records that can be sent; the others are refused in `outcomes`."""
        lines: list[tuple[int, bytes]] = []
        for place, record in enumerate(records):
            try:
                line = self.format(record)
            except Exception as error:  # a record that cannot be formatted must not harm its neighbours
                outcomes[place] = self.refusal(error)
                continue
            size = len(encode_body([line]))
            if size > self.settings.max_body_bytes:
                limit = self.settings.max_body_bytes
                outcomes[place] = Refused(
                    RecordInvalid("", f"makes {size} bytes, more than max_body_bytes: {limit}")
                )
                continue
            lines.append((place, line))
        return lines

    async def _post(self, parcel: _Parcel) -> tuple[HandlerError | None, int]:
        """Send one request; return why its records were not taken, or None, and the status, or 0."""
        body = encode_body([line for _, line in parcel])
        headers = {"idempotency-key": idempotency_key(body, self._settled_count)}
        reply: Reply | HandlerError
        try:
            reply = await self._exchange(body, headers)
        except TimeoutError:
            limit = self.settings.request_timeout_seconds
            reply = HandlerUnavailable(f"{self._origin} did not answer within {limit:g} s")
        except httpx.TransportError as error:
            reply = HandlerUnavailable(f"{self._origin} {_describe(error)}")
        if isinstance(reply, HandlerError):
            return reply, 0
        refusal = reply.refusal(self._origin, time.time)
        if not isinstance(refusal, RetryableError):
            self._settled_count += 1
        return refusal, reply.status

    async def _exchange(self, body: bytes, headers: dict[str, str]) -> Reply:
        """Return the receiver's answer. Raises TimeoutError or httpx.TransportError where there is none."""
        url = self.settings.url.reveal()
        reply: Reply | None = None
        mark = _posting.set(True)
        try:
            async with asyncio.timeout(self.settings.request_timeout_seconds):
                async with self._open_client().stream("POST", url, content=body, headers=headers) as response:
                    reply = Reply(response.status_code, response.headers.get("retry-after", ""))
                    await _skim(response)
        except (TimeoutError, httpx.TransportError):
            if reply is None:  # else the status counts, whatever became of the rest
                raise
        finally:
            _posting.reset(mark)
        return reply

    def _open_client(self) -> httpx.AsyncClient:
        if self._client is None:
            raise HandlerUnavailable(f"handler '{self.name}' is not running")
        return self._client

    def _secret_headers(self) -> dict[str, str]:
        return {name.lower(): value.reveal() for name, value in self.settings.headers.items()}

    def _authorities(self) -> ssl.SSLContext | bool:
        file = self.settings.ca_file
        if file is None:
            return True
        try:
            return ssl.create_default_context(cafile=file)
        except OSError as error:  # also what ssl says of a file without certificates
            raise HandlerUnavailable(f"ca_file: '{file}' cannot be used: {error}") from error


async def _skim(response: httpx.Response) -> None:
    """Read the answer to its end, but no more than MAX_REPLY_BYTES, and keep nothing."""
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            return


def _describe(error: httpx.TransportError) -> str:
    """Return what went wrong. Only the text of a failed connection is shown: others may repeat a header."""
    if isinstance(error, httpx.ConnectError):
        return f"cannot be reached: {error}"
    return f"gave no answer: {type(error).__name__}"


#: Whether the current task is posting for a webhook.
_posting: ContextVar[bool] = ContextVar("emitd_webhook_posting", default=False)


def _is_of_others(line: logging.LogRecord) -> bool:
    """Whether a line of httpx's own logger is not about us.

    For each request it logs the whole URL, secrets included; and where such lines are sent to emitd, each request
    would cause the next.
    """
    return not _posting.get()
