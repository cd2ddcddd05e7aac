"""The logger of a request: a whole `AsyncLogger` that fills in what is known of the request."""

import inspect
from typing import Any

import pytest

from emitd.errors import RecordRejected
from emitd.interface import AsyncLogger
from emitd.web.context import RequestContext, RequestLogger

CONTEXT = RequestContext(source_ip="192.0.2.1", request_id="r1")
#: Of these the logger of a request has its own opinion.
OWN = {"audit", "bind", "close"}
PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
VERBS = sorted(name for name, _ in inspect.getmembers(AsyncLogger, inspect.isfunction) if name[0] != "_")


class Recorder:
    """Stands in for any client: says what was asked of it."""

    def __init__(self, **bound: object) -> None:
        self.bound = bound
        self.calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def bind(self, **attributes: object) -> "Recorder":
        bound = Recorder(**{**self.bound, **attributes})
        bound.calls = self.calls
        return bound

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: object, **kwargs: object) -> Any:
            self.calls.append((name, args, kwargs))
            return _Answer(name)

        return call


class _Answer(str):
    """Can be awaited, and is itself."""

    def __await__(self) -> Any:
        return self
        yield


def request_logger(user_id: str | None = "demo") -> tuple[Any, Recorder]:
    recorder = Recorder()
    return RequestLogger(recorder, CONTEXT, user_id), recorder  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in VERBS if name not in OWN])
async def test_each_verb_reaches_the_client_with_all_it_was_given(name: str) -> None:
    """What `AsyncLogger` has, the logger of a request has, with the same parameters, and passes every one on."""
    logger, recorder = request_logger()
    promised = inspect.signature(getattr(AsyncLogger, name)).parameters
    offered = inspect.signature(getattr(RequestLogger, name)).parameters
    assert [(p.name, p.kind, p.default) for p in promised.values()] == [
        (p.name, p.kind, p.default) for p in offered.values()
    ]
    named = {key: object() for key, p in promised.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    named |= {"extra": object()} if "attributes" in promised else {}
    placed = [object() for p in promised.values() if p.name != "self" and p.kind in PLACED]
    answer = getattr(logger, name)(*placed, **named)
    if inspect.isawaitable(answer):
        answer = await answer
    assert answer is None or answer == name
    ((called, given, options),) = recorder.calls
    assert called == name
    passed = [*given, *options.values()]
    assert all(any(value is one for one in passed) for value in (*placed, *named.values()))


def test_audit_takes_all_that_the_interface_has() -> None:
    """A parameter that `AsyncLogger.audit` gets is one here too; only user and address need not be given."""
    promised = inspect.signature(AsyncLogger.audit).parameters
    offered = inspect.signature(RequestLogger.audit).parameters
    assert list(promised) == list(offered)
    others = promised.keys() - {"user_id", "source_ip"}
    assert all(
        promised[name] == offered[name].replace(annotation=promised[name].annotation) for name in others
    )


async def test_audit_fills_in_the_request() -> None:
    """User and address are the request's; all else is passed on as it was given."""
    logger, recorder = request_logger()
    options = {
        "details": {"a": 1},
        "message": "m",
        "record_id": "i",
        "time_unix_nano": 7,
        "timeout": 2.0,
        "require_commit": True,
    }
    await logger.audit("playlist.create", **options)
    expected = {"user_id": "demo", "source_ip": "192.0.2.1", **options}
    assert recorder.calls == [("audit", ("playlist.create",), expected)]


async def test_what_is_given_wins() -> None:
    """An event about somebody else, such as a failed login, names him."""
    logger, recorder = request_logger()
    await logger.audit("user.login.failure", user_id="other", source_ip="unknown")
    assert (recorder.calls[0][2]["user_id"], recorder.calls[0][2]["source_ip"]) == ("other", "unknown")
    await logger.audit("user.login.failure", user_id="")  # for the service to refuse
    assert recorder.calls[1][2]["user_id"] == ""


async def test_nobodys_event_is_refused() -> None:
    """Where nobody is logged in and no user is given, the error names the field, and nothing is sent."""
    logger, recorder = request_logger(user_id=None)
    with pytest.raises(RecordRejected, match="`user_id`") as caught:
        await logger.audit("playlist.create")
    assert caught.value.field == "audit.user_id"
    assert recorder.calls == []


def test_records_carry_the_request_and_what_is_bound() -> None:
    """`bind` adds to the request's attributes, for the new logger only, and the request stays known."""
    recorder = Recorder(service="shop")
    logger = RequestLogger(recorder, CONTEXT, "demo")  # type: ignore[arg-type]
    bound = logger.bind(order=17)
    carried = {"service": "shop", "client_ip": "192.0.2.1", "request_id": "r1"}
    assert bound._logger.bound == {**carried, "order": 17}  # type: ignore[attr-defined]
    assert logger._logger.bound == carried  # type: ignore[attr-defined]
    assert (bound.user_id, bound.source_ip, bound.request_id) == ("demo", "192.0.2.1", "r1")


async def test_a_route_cannot_close_the_applications_logger() -> None:
    """Closing the logger of a request, or leaving its block, flushes and no more."""
    logger, recorder = request_logger()
    async with logger as entered:
        assert entered is logger
    await logger.close()
    assert [name for name, _, _ in recorder.calls] == ["flush", "flush"]
