"""`EmitdFastAPI` in an application: the logger by `Depends`, the context of requests, answers to errors."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response, WebSocket
from starlette.middleware.base import BaseHTTPMiddleware

from emitd.context import current_attributes
from emitd.errors import ClientNotOpen, EmitError, RecordRejected, Unavailable
from emitd.fastapi import EmitdFastAPI, RequestLogger, WebSettings
from emitd_handlers.record import AuditEvent, Level
from support.client.in_process_client import Opened, attributes, committed_memory, opened

PEER = "10.0.0.1"


async def get_user(x_user: Annotated[str | None, Header()] = None) -> str | None:
    return x_user


@asynccontextmanager
async def shop() -> AsyncIterator[Opened]:
    """A service whose only handler keeps all records."""
    async with opened([committed_memory(*Level)]) as service:
        yield service


def web_of(shop: Opened, **options: Any) -> EmitdFastAPI:
    return EmitdFastAPI(lambda: shop.service.client("shop"), **{"user": get_user, **options})


def app_of(web: EmitdFastAPI, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=web.lifespan, **options)
    web.install(app)
    return app


@asynccontextmanager
async def running(app: FastAPI, peer: str | None = PEER) -> AsyncIterator[httpx.AsyncClient]:
    """The application, open, and a browser that comes from `peer`."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(peer, 4711) if peer else None)  # type: ignore[arg-type]
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        yield client


async def events(shop: Opened) -> list[AuditEvent]:
    return [record.payload for record in await shop.logged() if isinstance(record.payload, AuditEvent)]


async def test_an_audit_event_needs_its_name_and_no_more() -> None:
    """The event has the user that the application's dependency found, and the address behind the trusted proxy."""
    async with shop() as service:
        web = web_of(service, trusted_proxies=["10.0.0.0/8"])
        app = app_of(web)

        @app.post("/playlists")
        async def create(logger: Annotated[RequestLogger, Depends(web.request_logger)]) -> str:
            receipt = await logger.audit("playlist.create", details={"name": "Monday"})
            return receipt.record_id

        headers = {"X-User": "demo", "X-Forwarded-For": "203.0.113.9, 192.0.2.1", "X-Request-ID": "r-17"}
        async with running(app) as browser:
            answer = await browser.post("/playlists", headers=headers)
        (record,) = await service.logged()
    event = record.payload
    assert isinstance(event, AuditEvent)
    assert (event.event_name, event.user_id, event.source_ip) == ("playlist.create", "demo", "192.0.2.1")
    assert json.loads(event.details_json) == {"name": "Monday"}
    assert attributes(record) == {"client_ip": "192.0.2.1", "request_id": "r-17"}
    assert (answer.json(), answer.headers["x-request-id"]) == (record.record_id, "r-17")


async def test_a_request_made_again_under_one_record_id_is_one_event() -> None:
    """The event is the same in each request, although that has another id, and so the retry gets the first receipt."""
    async with shop() as service:
        web = web_of(service)
        app = app_of(web)

        @app.post("/orders/{key}")
        async def order(key: str, logger: Annotated[RequestLogger, Depends(web.request_logger)]) -> bool:
            receipt = await logger.bind(shop=1).audit("order.create", record_id=key)
            return receipt.duplicate

        async with running(app) as browser:
            first, again = [await browser.post("/orders/17", headers={"X-User": "demo"}) for _ in range(2)]
        (record,) = await service.logged()
    assert (first.json(), again.json()) == (False, True)
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert attributes(record) == {"shop": 1}


async def test_nobodys_event_is_an_error_and_not_recorded() -> None:
    """A route that audits without a user answers 500 and leaves a log line that names the field, but no event."""
    async with shop() as service:
        web = web_of(service)
        app = app_of(web)

        @app.post("/playlists")
        async def create(logger: Annotated[RequestLogger, Depends(web.request_logger)]) -> None:
            await logger.audit("playlist.create")

        async with running(app) as browser:
            answer = await browser.post("/playlists")
        assert (answer.status_code, answer.json()) == (500, {"detail": "internal error"})
        (line,) = await service.logged()
        assert line.message == "POST /playlists failed"
        assert "user_id" in attributes(line)["exception.message"]
        assert attributes(line)["request_id"] == answer.headers["x-request-id"]


async def test_the_context_reaches_everything_in_a_request() -> None:
    """Coroutines, plain routes and dependencies in threads, tasks, and what runs under other middleware, see it."""
    seen: dict[str, Mapping[str, object]] = {}

    def plain_dependency() -> None:
        seen["dependency"] = current_attributes()

    async with shop() as service:
        web = web_of(service)
        app = FastAPI(lifespan=web.lifespan)

        async def pass_on(request: Request, call_next: Any) -> Response:
            return await call_next(request)  # type: ignore[no-any-return]

        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
        web.install(app)

        @app.get("/plain", dependencies=[Depends(plain_dependency)])
        def plain(logger: Annotated[RequestLogger, Depends(web.request_logger)]) -> None:
            seen["plain"] = current_attributes()
            assert threading.current_thread() is not threading.main_thread()
            logger.info("from a thread")

        @app.get("/task")
        async def task() -> None:
            async def work() -> None:
                seen["task"] = current_attributes()

            await asyncio.create_task(work())

        async with running(app) as browser:
            plain_answer = await browser.get("/plain")
            task_answer = await browser.get("/task")
        (line,) = await service.logged()
    expected = {"client_ip": PEER, "request_id": plain_answer.headers["x-request-id"]}
    assert seen["plain"] == seen["dependency"] == attributes(line) == expected
    assert seen["task"]["request_id"] == task_answer.headers["x-request-id"]
    assert current_attributes() == {}


async def test_requests_at_the_same_time_keep_apart() -> None:
    """Each request has an id of its own, also while another is under way."""
    async with shop() as service:
        web = web_of(service)
        app = app_of(web)
        both = asyncio.Barrier(2)

        @app.get("/")
        async def wait(logger: Annotated[RequestLogger, Depends(web.request_logger)]) -> list[object]:
            await both.wait()
            return [logger.request_id, current_attributes()["request_id"]]

        async with running(app) as browser:
            answers = await asyncio.gather(browser.get("/"), browser.get("/"))
    first, second = [answer.json() for answer in answers]
    assert first != second
    assert [[answer.headers["x-request-id"]] * 2 for answer in answers] == [first, second]


@pytest.mark.parametrize(
    ("peer", "values", "is_kept"),
    [
        (PEER, ["r-17/a:b"], True),
        (PEER, ["x" * 128], True),
        ("192.0.2.1", ["r-17"], False),
        (None, ["r-17"], False),
        (PEER, ["x" * 129], False),
        (PEER, ["two words"], False),
        (PEER, ["\xe4"], False),
        (PEER, ["tab\there"], False),
        (PEER, [""], False),
        (PEER, ["one", "two"], False),
    ],
)
async def test_only_a_trusted_proxys_sane_id_is_taken_over(
    peer: str | None, values: list[str], is_kept: bool
) -> None:
    """Any other request gets an id that nobody can foresee."""
    async with shop() as service:
        app = app_of(web_of(service, trusted_proxies=PEER))
        async with running(app, peer) as browser:
            headers = [(b"x-request-id", value.encode("latin-1")) for value in values]
            given = (await browser.get("/", headers=headers)).headers["x-request-id"]  # type: ignore[arg-type]
            again = (await browser.get("/")).headers["x-request-id"]
    assert (given in values) == is_kept
    assert len(again) == 32
    assert again != given


async def test_an_unhandled_exception_can_be_found_by_the_id_in_the_answer() -> None:
    """It is logged with the request's id, and the 500 that the user sees has the same id; the server hears of it."""
    async with shop() as service:
        app = app_of(web_of(service))

        @app.get("/orders")
        async def fail() -> None:
            raise ZeroDivisionError

        async with running(app) as browser:
            answer = await browser.get("/orders?secret=1")
            assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        (line,) = await service.logged()
        assert line.message == "GET /orders failed"
        assert attributes(line)["exception.type"] == "ZeroDivisionError"
        assert attributes(line)["request_id"] == answer.headers["x-request-id"]
        async with app.router.lifespan_context(app):
            with pytest.raises(ZeroDivisionError):
                await httpx.AsyncClient(transport=httpx.ASGITransport(app)).get("http://shop/orders")


@pytest.mark.parametrize("key", [500, Exception])
async def test_the_applications_own_answer_to_exceptions_stays(key: Any) -> None:
    """A handler for all exceptions, and the page for debugging, are not replaced by a bare 500."""

    async def answer(request: Request, error: Exception) -> Response:
        return Response("own", 500)

    async def fail() -> None:
        raise ZeroDivisionError

    async with shop() as service:
        app = app_of(web_of(service), exception_handlers={key: answer})
        app.add_api_route("/", fail)
        async with running(app) as browser:
            assert (await browser.get("/")).text == "own"
        app = app_of(web_of(service), debug=True)
        app.add_api_route("/", fail)
        async with running(app) as browser:
            assert "Traceback" in (await browser.get("/")).text


@pytest.mark.parametrize(
    ("error", "status", "retry_after", "level"),
    [
        (Unavailable("the disk is full"), 503, "7", Level.WARNING),
        (RecordRejected("too large"), 500, None, Level.ERROR),
        (EmitError("odd"), 500, None, Level.ERROR),
    ],
)
async def test_an_error_of_emitd_has_an_answer(
    error: EmitError, status: int, retry_after: str | None, level: Level
) -> None:
    """503 with Retry-After where another try can help, else 500; the reason is logged, and not told."""
    async with shop() as service:
        app = app_of(web_of(service, settings=WebSettings(retry_after_seconds=7)))

        @app.get("/")
        async def fail() -> None:
            raise error

        async with running(app) as browser:
            answer = await browser.get("/")
        (line,) = await service.logged()
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    assert str(error) not in answer.text
    assert line.level is level
    assert str(error) in line.attributes_json


async def test_a_web_socket_has_a_context_too() -> None:
    """The logger is given to WebSocket routes as well, and the handshake's answer has the id."""
    async with shop() as service:
        web = web_of(service)
        app = app_of(web)

        @app.websocket("/chat")
        async def chat(
            socket: WebSocket, logger: Annotated[RequestLogger, Depends(web.request_logger)]
        ) -> None:
            await socket.accept()
            logger.info("hello")
            await socket.close()

        sent: list[Any] = []

        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        async with app.router.lifespan_context(app):
            scope = {"type": "websocket", "path": "/chat", "query_string": b"", "headers": [], "client": None}
            await app({**scope, "subprotocols": []}, receive, send)
        (line,) = await service.logged()
    assert attributes(line)["client_ip"] == "unknown"
    assert (b"x-request-id", attributes(line)["request_id"].encode()) in sent[0]["headers"]


async def test_a_users_dependency_may_refuse_and_be_replaced() -> None:
    """What `user` raises is the answer; tests replace it by `dependency_overrides`."""

    async def refuse() -> str:
        raise HTTPException(401, "log in first")

    async with shop() as service:
        web = web_of(service, user=refuse)
        app = app_of(web)

        @app.get("/")
        async def whoami(logger: Annotated[RequestLogger, Depends(web.request_logger)]) -> str | None:
            return logger.user_id

        async with running(app) as browser:
            assert (await browser.get("/")).status_code == 401
            app.dependency_overrides[refuse] = lambda: "tester"
            assert (await browser.get("/")).json() == "tester"
            app.dependency_overrides[refuse] = lambda: 17
            await browser.get("/")
        line = (await service.logged())[-1]
        assert "user: must give an id as a str, or None, not int" in attributes(line)["exception.message"]


async def test_an_application_on_another_has_its_context() -> None:
    """A mounted application uses the logger of the one it is mounted on."""
    async with shop() as service:
        web = web_of(service)
        app, part = app_of(web), FastAPI()
        app.mount("/part", part)

        @part.get("/")
        async def whose(logger: Annotated[RequestLogger, Depends(web.request_logger)]) -> str:
            return logger.request_id

        async with running(app) as browser:
            answer = await browser.get("/part/")
    assert answer.json() == answer.headers["x-request-id"]


async def test_what_was_forgotten_is_said() -> None:
    """Without `install` a request fails by an error that says what to call; without the lifespan, the logger does."""
    async with shop() as service:
        web = web_of(service)
        app = FastAPI(lifespan=web.lifespan)

        @app.get("/")
        async def route(logger: Annotated[RequestLogger, Depends(web.request_logger)]) -> None:
            pass

        with pytest.raises(ClientNotOpen, match="lifespan"):
            _ = web.logger
        async with app.router.lifespan_context(app):
            with pytest.raises(RuntimeError, match=r"call `EmitdFastAPI\.install\(app\)`"):
                await httpx.AsyncClient(transport=httpx.ASGITransport(app)).get("http://shop/")


async def test_the_logger_lives_as_long_as_the_application() -> None:
    """It can be opened again after its end, but not twice at once, which would leave one without an owner."""
    async with shop() as service:
        web = web_of(service)
        app = app_of(web)
        for _ in range(2):
            async with web.lifespan(app):
                web.logger.info("open")
                with pytest.raises(RuntimeError, match="running already"):
                    async with web.lifespan(app):
                        pass
            with pytest.raises(ClientNotOpen):
                _ = web.logger
        assert len(await service.logged()) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_proxies", 0),
        ("stream_heartbeat_seconds", -1.0),
        ("request_id_header", "X Id"),
        ("forwarded_header", ""),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: object) -> None:
    """A limit that makes no sense, or a name that is none, is refused when it is given."""
    with pytest.raises(ValueError, match=rf"^{name}: "):
        WebSettings(**{name: value})  # type: ignore[arg-type]


def test_only_the_integration_loads_the_framework() -> None:
    """What it is made of can be used, and tested, without FastAPI and Starlette."""
    modules = "context, job_events, trusted_proxies"
    program = f"import sys; from emitd.web import {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"fastapi", "starlette"}.isdisjoint(done.stdout.split())
