"""Every built-in handler keeps the promises of BaseLogHandler."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from emitd_handlers.audit.handler import JsonAuditHandler, JsonAuditSettings
from emitd_handlers.console import ConsoleHandler, ConsoleSettings
from emitd_handlers.discard import DiscardHandler
from emitd_handlers.file.handler import FileHandler, FileSettings, RotateSettings
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler, DatabaseJobSettings
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import HandlerContract, InMemoryHandler, make_record
from emitd_handlers.webhook.handler import WebhookHandler, WebhookSettings, WebhookUrl
from support.processes.http_receiver import HttpReceiver


def make_folder(path: Path) -> Callable[[], None]:
    """Put a folder in the place of a file; return what removes it."""
    path.mkdir()
    return path.rmdir


class TestConsole(HandlerContract):
    """`console`, over every level."""

    def make_handler(self) -> ConsoleHandler:
        return ConsoleHandler(ConsoleSettings(levels=tuple(Level)), stream=io.BytesIO())


class TestFormattedConsole(HandlerContract):
    """`console` with a `format` of its own, which one record fails."""

    class Handler(ConsoleHandler):
        """Cannot format one message."""

        def format(self, record: LogRecord) -> str:
            if record.message == "bad":
                raise ValueError("cannot be formatted")
            return super().format(record)

    def make_handler(self) -> ConsoleHandler:
        return self.Handler(stream=io.BytesIO())

    def make_bad_record(self) -> LogRecord:
        return make_record(message="bad")


class TestFile(HandlerContract):
    """`file`, queued."""

    settings: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_handler(self) -> FileHandler:
        return FileHandler(FileSettings(path=self.folder / "lines.jsonl", **self.settings))

    def break_start(self) -> Callable[[], None]:
        return make_folder(self.folder / "lines.jsonl")

    def make_bad_record(self) -> LogRecord:
        return make_record(message="\ud800")


class TestCommittedFile(TestFile):
    """`file`, committed, over every level, with many rotations."""

    settings: ClassVar[dict[str, Any]] = {
        "delivery": Delivery.COMMITTED,
        "levels": tuple(Level),
        "rotate": RotateSettings(bytes=10_000),
    }


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


class TestJsonAudit(HandlerContract):
    """`json_audit`."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_handler(self) -> JsonAuditHandler:
        return JsonAuditHandler(JsonAuditSettings(path=self.folder / "audit.json.log"))

    def break_start(self) -> Callable[[], None]:
        return make_folder(self.folder / "audit.json.log")

    def make_bad_record(self) -> LogRecord:
        return make_record(Level.AUDIT, payload=AuditEvent("e1", "user.login", "u1", "nowhere", "{}"))


class TestDatabaseJob(HandlerContract):
    """`database_job`, over SQLite."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_handler(self) -> DatabaseJobHandler:
        return DatabaseJobHandler(DatabaseJobSettings(database=DatabaseUrl(self.folder / "jobs.db")))

    def break_start(self) -> Callable[[], None]:
        return make_folder(self.folder / "jobs.db")

    def make_bad_record(self) -> LogRecord:
        return make_record(Level.JOB_STATUS, payload=JobStatus("j1", "", JobState.RUNNING))


class TestQueuedWebhook(HandlerContract):
    """`webhook`, over every level, with a receiver that takes everything."""

    delivery = Delivery.QUEUED

    @pytest.fixture(autouse=True)
    def _receiver(self) -> Iterator[None]:
        with HttpReceiver() as self.receiver:
            yield

    def make_handler(self) -> WebhookHandler:
        url = WebhookUrl(self.receiver.url)
        return WebhookHandler(WebhookSettings(url=url, levels=tuple(Level), delivery=self.delivery))

    def make_bad_record(self) -> LogRecord:
        return make_record(attributes_json="[1]")


class TestCommittedWebhook(TestQueuedWebhook):
    """`webhook`, with the sender's reply waiting for the receiver's."""

    delivery = Delivery.COMMITTED
