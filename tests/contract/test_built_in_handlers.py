"""Every built-in handler keeps the promises of BaseLogHandler."""

import io

from emitd_handlers.console import ConsoleHandler, ConsoleSettings
from emitd_handlers.discard import DiscardHandler
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import HandlerContract, InMemoryHandler, make_record


class TestConsole(HandlerContract):
    """`console`, over every level."""

    def make_handler(self) -> ConsoleHandler:
        return ConsoleHandler(ConsoleSettings(levels=tuple(Level)), stream=io.BytesIO())


class TestFormattedConsole(HandlerContract):
    """`console` with a `format` of its own, which one record fails."""

    class Handler(ConsoleHandler):
        def format(self, record: LogRecord) -> str:
            if record.message == "bad":
                raise ValueError("cannot be formatted")
            return super().format(record)

    def make_handler(self) -> ConsoleHandler:
        return self.Handler(stream=io.BytesIO())

    def make_bad_record(self) -> LogRecord:
        return make_record(message="bad")


class TestDiscard(HandlerContract):
    """`discard`."""

    def make_handler(self) -> DiscardHandler:
        return DiscardHandler()


class TestQueuedInMemory(HandlerContract):
    """The double, queued."""

    def make_handler(self) -> InMemoryHandler:
        return InMemoryHandler()


class TestCommittedInMemory(HandlerContract):
    """The double, committed."""

    def make_handler(self) -> InMemoryHandler:
        return InMemoryHandler(HandlerSettings(delivery=Delivery.COMMITTED))
