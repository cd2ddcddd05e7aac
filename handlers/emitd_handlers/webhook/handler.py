"""`WebhookHandler`: posts records as JSON to an HTTP receiver, many in one request.

    POST /ingest   {"records":[{"record_id":"...","timestamp":"...","level":"INFO","message":"..."}, ...]}

Every record arrives at least once, in order, while the queue holds it: if the receiver cannot take it now, it is
refused as retryable, and the queue offers it again. The handler needs the extra `emitd[webhook]`.
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
from urllib.parse import urlsplit

from msgspec import field

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerError, HandlerUnavailable, RecordInvalid, RetryableError
from emitd_handlers.outcome import Committed, Outcome, Refused
from emitd_handlers.paths import SettingInvalid
from emitd_handlers.record import LogRecord
from emitd_handlers.record_json import encode_record
from emitd_handlers.secret_text import SecretText
from emitd_handlers.settings import (
    Delivery,
    DeliverySettings,
    HandlerSettings,
    PositiveInt,
    PositiveSeconds,
    QueuedSettings,
)
from emitd_handlers.webhook.message import (
    PAYLOAD_TOO_LARGE,
    Reply,
    encode_body,
    idempotency_key,
    split,
)

try:
    import httpx
except ModuleNotFoundError as error:
    raise ImportError("the webhook handler needs httpx: pip install 'emitd[webhook]'") from error

#: How much of a response is read, so that its connection can be used again; a longer one costs the connection.
MAX_REPLY_BYTES = 64 * 1024

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
#: Headers that frame a request or differ in each.
_OWN_HEADERS = frozenset(
    {"connection", "content-length", "content-type", "idempotency-key", "transfer-encoding"}
)
_COMMITTED = Committed()

#: Records as JSON, each with its place in the batch.
_Parcel: TypeAlias = Sequence[tuple[int, bytes]]


class WebhookUrl(SecretText):
    """An `http` or `https` URL. Its `str` and `repr` show scheme, host and port only.

    The rest may be secret: some receivers have a token in the path, others in the query or before the host.
    """

    __slots__ = ("_origin",)
    #: For the message about a missing URL.
    expected = "a URL, such as https://HOST[:PORT]/PATH"

    def __init__(self, text: str) -> None:
        """Raise ValueError, which shows no more than the scheme, if `text` is no such URL."""
        if any(character.isspace() or not character.isprintable() for character in text):
            raise ValueError("a URL has neither white space nor control characters; write them as %XX")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            problem = "the URL's host or port is malformed; expected https://HOST[:PORT]/PATH"
            raise ValueError(problem) from None
        if parts.scheme not in ("http", "https"):
            found = f"'{parts.scheme}' is no scheme of a webhook" if parts.scheme else "the URL has no scheme"
            raise ValueError(f"{found}; expected http://... or https://...")
        if not host:
            raise ValueError(f"the URL names no host; expected {parts.scheme}://HOST[:PORT]/PATH")
        if parts.fragment:
            raise ValueError("the URL has a fragment, which no receiver gets; remove '#' and what follows")
        shown = f"[{host}]" if ":" in host else host
        self._origin = f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")
        super().__init__(text)

    @property
    def origin(self) -> str:
        """Scheme, host and port, which may be shown."""
        return self._origin

    def __str__(self) -> str:
        return self._origin

    def __repr__(self) -> str:
        return f"WebhookUrl('{self._origin}/***')"


class WebhookSettings(HandlerSettings, frozen=True, kw_only=True):
    """The keys of an entry of type `webhook`, in addition to the common ones."""

    #: Where to post to: `http://...` or `https://...`. Messages show its scheme, host and port only.
    url: WebhookUrl
    #: Headers of every request, such as `Authorization`. Their values are never shown.
    headers: dict[str, SecretText] = field(default_factory=dict)
    #: How long one request may take, from connecting to the response, in seconds.
    request_timeout_seconds: PositiveSeconds = 10.0
    #: The largest body, in bytes; a larger batch is sent in several requests.
    max_body_bytes: PositiveInt = 1_048_576
    #: A PEM file with the certificate authorities to trust instead of those that come with httpx.
    ca_file: Path | None = None

    #: A batch is offered again for about four minutes, and no wait is longer than a minute, whatever the receiver asks.
    delivery: Delivery | DeliverySettings | None = QueuedSettings(max_retries=12, retry_max_seconds=60.0)

    def __post_init__(self) -> None:
        """Raise ValueError, without the value, if a header cannot be sent."""
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise SettingInvalid(f"headers: {name!r} is no name of a header")
            if name.lower() in _OWN_HEADERS:
                raise SettingInvalid(f"headers: '{name}' is set by the handler itself; remove it")
            if not _HEADER_VALUE.fullmatch(value.reveal()):
                raise SettingInvalid(f"headers: the value of '{name}' must be printable ASCII on one line")


class WebhookHandler(BaseLogHandler):
    """Posts records to one receiver. Override `format` to post them in another form."""

    Settings: ClassVar[type[HandlerSettings]] = WebhookSettings
    settings: WebhookSettings
    emit = BaseLogHandler.emit_by_batch

    def __init__(self, settings: WebhookSettings, *, name: str = "") -> None:
        """Raise httpx.InvalidURL if httpx cannot use the URL, such as for its host's name."""
        super().__init__(settings, name=name)
        httpx.URL(settings.url.reveal())
        self._origin = settings.url.origin
        self._client: httpx.AsyncClient | None = None
        #: How many requests were answered for good; see `idempotency_key`.
        self._settled_count = 0

    async def start(self) -> None:
        """Make the HTTP client; the first connection is made by the first request.

        Raises HandlerUnavailable if `ca_file` cannot be used.
        """
        await super().start()
        if self._client is not None:
            return
        verify: ssl.SSLContext | bool = True
        if self.settings.ca_file is not None:
            try:
                verify = ssl.create_default_context(cafile=self.settings.ca_file)
            except OSError as error:  # also what ssl says of a file without certificates
                problem = f"ca_file: '{self.settings.ca_file}' cannot be used: {error}"
                raise HandlerUnavailable(problem) from error
        logging.getLogger("httpx").addFilter(_is_of_others)
        headers = {name.lower(): value.reveal() for name, value in self.settings.headers.items()}
        self._client = httpx.AsyncClient(
            headers={"user-agent": "emitd", **headers, "content-type": "application/json"},
            verify=verify,
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

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Post the records, in order, in as few requests as `max_body_bytes` and the receiver allow.

        If the receiver cannot take a request now, the rest is not sent either: this keeps the order, and leaves a
        receiver in trouble alone.
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
        """Return the records that can be sent; refuse the others in `outcomes`."""
        lines: list[tuple[int, bytes]] = []
        for place, record in enumerate(records):
            try:
                line = self.format(record)
            except Exception as error:  # a record that cannot be formatted must not harm its neighbours
                outcomes[place] = self.refusal(error)
                continue
            size, limit = len(encode_body([line])), self.settings.max_body_bytes
            if size > limit:
                problem = f"makes {size} bytes, more than max_body_bytes: {limit}"
                outcomes[place] = Refused(RecordInvalid("", problem))
                continue
            lines.append((place, line))
        return lines

    async def _post(self, parcel: _Parcel) -> tuple[HandlerError | None, int]:
        """Send one request; return the error of its records, or None, and the status, or 0."""
        body = encode_body([line for _, line in parcel])
        headers = {"idempotency-key": idempotency_key(body, self._settled_count)}
        try:
            reply = await self._exchange(body, headers)
        except TimeoutError:
            limit = self.settings.request_timeout_seconds
            return HandlerUnavailable(f"{self._origin} did not answer within {limit:g} s"), 0
        except httpx.ConnectError as error:
            return HandlerUnavailable(f"{self._origin} cannot be reached: {error}"), 0
        except httpx.TransportError as error:  # its text may repeat a header
            return HandlerUnavailable(f"{self._origin} gave no answer: {type(error).__name__}"), 0
        refusal = reply.refusal(self._origin, time.time)
        if not isinstance(refusal, RetryableError):
            self._settled_count += 1
        return refusal, reply.status

    async def _exchange(self, body: bytes, headers: dict[str, str]) -> Reply:
        """Return the receiver's answer. Raises TimeoutError or httpx.TransportError if there is none."""
        if self._client is None:
            raise HandlerUnavailable(f"handler '{self.name}' is not running")
        url = self.settings.url.reveal()
        reply: Reply | None = None
        mark = _posting.set(True)
        try:
            async with asyncio.timeout(self.settings.request_timeout_seconds):
                async with self._client.stream("POST", url, content=body, headers=headers) as response:
                    reply = Reply(response.status_code, response.headers.get("retry-after", ""))
                    size = 0  # it is read to its end, but no further than this, and not kept
                    async for chunk in response.aiter_raw():
                        size += len(chunk)
                        if size > MAX_REPLY_BYTES:
                            break
        except (TimeoutError, httpx.TransportError):
            if reply is None:  # otherwise the status counts, even if the rest was lost
                raise
        finally:
            _posting.reset(mark)
        return reply


#: Whether the current task is posting for a webhook.
_posting: ContextVar[bool] = ContextVar("emitd_webhook_posting", default=False)


def _is_of_others(line: logging.LogRecord) -> bool:
    """Return whether a line of httpx's own logger is not about our requests.

    For each request it logs the whole URL, secrets included. If such lines are sent to emitd, each request would cause
    the next.
    """
    return not _posting.get()
