"""The contestants of the client's benchmark: how each sends one log line with two scalar attributes.

Each is set up as its documentation advises for speed, with the same room in its queue, and everything else at its
defaults. Those that write to a file write the time, the level, the message and both attributes, and flush each
line, as they do by default.
"""

import logging
import logging.handlers
import queue
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CONTESTANTS", "MESSAGE", "QUEUE_RECORDS", "Contestant", "Sender"]

MESSAGE = "order taken"
#: Room in every queue that has a bound: more than a lap has records, so that nobody drops any.
QUEUE_RECORDS = 100_000
QUEUE_BYTES = 64 * 1024 * 1024
TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s order=%(order)s user=%(user)s"


@dataclass(frozen=True)
class Sender:
    """A contestant that is set up."""

    #: Send one record.
    emit: Callable[[], object]
    #: Return when what was sent so far is delivered.
    settle: Callable[[], object]
    #: Return when everything is delivered, and end.
    close: Callable[[], object]


@dataclass(frozen=True)
class Contestant:
    """A way to log."""

    #: The module it needs; where there is none, the contestant is not installed.
    module: str
    #: Where its records go: `file`, `otlp`, `emitd`, or `nowhere`.
    receiver: str
    #: Set it up, for the path of a file or the address of a server.
    make: Callable[[str], Sender]


def _nothing() -> None:
    """Do nothing."""


def make_empty_call(target: str) -> Sender:
    """What measuring alone costs."""
    return Sender(_nothing, _nothing, _nothing)


def make_file_handler(target: str) -> Sender:
    """`logging.FileHandler`."""
    handler = _text_file(target)
    return Sender(_emit_by_logging(handler), _nothing, handler.close)


def make_queue_handler(target: str) -> Sender:
    """`logging.handlers.QueueHandler`, with a listener that has a FileHandler."""
    records: queue.Queue[Any] = queue.Queue(QUEUE_RECORDS)
    file = _text_file(target)
    listener = logging.handlers.QueueListener(records, file)
    listener.start()

    def close() -> None:
        listener.stop()
        file.close()

    return Sender(_emit_by_logging(logging.handlers.QueueHandler(records)), records.join, close)


def make_structlog(target: str) -> Sender:
    """Structlog as its page on performance advises: bytes, a filtering bound logger, a fast JSON encoder."""
    import msgspec
    import structlog

    file = Path(target).open("ab")  # noqa: SIM115 - open as long as the process
    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=lambda event, **_: msgspec.json.encode(event)),
        ],
        logger_factory=structlog.BytesLoggerFactory(file=file),
    )
    log = structlog.get_logger()
    return Sender(lambda: log.info(MESSAGE, order=17, user="u1"), _nothing, file.close)


def make_loguru(target: str) -> Sender:
    """Loguru with `enqueue`: its queue is a pipe, which blocks the caller when it is full."""
    from loguru import logger

    logger.remove()
    logger.add(target, enqueue=True, format="{time} {level} {name} {message} {extra}", level="INFO")
    return Sender(lambda: logger.info(MESSAGE, order=17, user="u1"), logger.complete, logger.remove)


def make_opentelemetry(target: str) -> Sender:
    """The OpenTelemetry SDK's handler, with a batch processor that exports over OTLP."""
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    provider = LoggerProvider(Resource.create({"service.name": "bench"}), shutdown_on_exit=False)
    exporter = OTLPLogExporter(f"http://{target}", insecure=True)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter, max_queue_size=QUEUE_RECORDS))
    with warnings.catch_warnings():
        # Its successor is not in the SDK.
        warnings.simplefilter("ignore", DeprecationWarning)
        handler = LoggingHandler(logger_provider=provider)
    return Sender(_emit_by_logging(handler), provider.force_flush, provider.shutdown)


def make_emitd_handler(target: str) -> Sender:
    """`emitd.logging.EmitdHandler`."""
    from emitd.logging import EmitdHandler

    client = _log_client(target)
    return Sender(_emit_by_logging(EmitdHandler(client=client)), client.flush, client.close)


def make_emitd_direct(target: str) -> Sender:
    """`emitd.LogClient`, called directly."""
    client = _log_client(target)
    return Sender(lambda: client.info(MESSAGE, order=17, user="u1"), client.flush, client.close)


def _log_client(address: str) -> Any:
    from emitd import LogClient

    return LogClient(
        address,
        source="bench",
        max_queue_records=QUEUE_RECORDS,
        max_queue_bytes=QUEUE_BYTES,
        close_timeout=60,
        spool="off",  # lines are not spooled by default, and nothing is to stay in the user's folder
    )


def _text_file(path: str) -> logging.Handler:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(TEXT_FORMAT))
    return handler


def _emit_by_logging(handler: logging.Handler) -> Callable[[], None]:
    logger = logging.getLogger("bench")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return lambda: logger.info(MESSAGE, extra={"order": 17, "user": "u1"})


CONTESTANTS = {
    "an empty call": Contestant("logging", "nowhere", make_empty_call),
    "FileHandler": Contestant("logging", "file", make_file_handler),
    "QueueHandler": Contestant("logging", "file", make_queue_handler),
    "structlog to a file": Contestant("structlog", "file", make_structlog),
    "loguru, enqueue": Contestant("loguru", "file", make_loguru),
    "OpenTelemetry": Contestant("opentelemetry.exporter.otlp.proto.grpc", "otlp", make_opentelemetry),
    "EmitdHandler": Contestant("emitd.logging", "emitd", make_emitd_handler),
    "emitd, direct call": Contestant("emitd.client", "emitd", make_emitd_direct),
}
