"""A web application that logs, audits and reports its jobs through emitd, in its own process.

A login and a playlist leave audit events; a report is made in the background, and a page follows it live by
server-sent events. The service is opened once, in the lifespan, and given to the routes by `Depends`. Routes know
`emitd.AsyncLogger` only: which client it is, one line there decides.

    python app.py                          # then open http://127.0.0.1:8000, user demo, password demo
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from emitd import AsyncJobReporter, AsyncLogger, EmitError, v1
from emitd_server import InProcessClient

HERE = Path(__file__).parent
CONFIG = os.environ.get("WEBAPP_LOGGING_CONFIG", HERE / "logging_config.yml")
#: How long each chapter of a report takes.
CHAPTER_SECONDS = float(os.environ.get("WEBAPP_CHAPTER_SECONDS", "0.5"))
CHAPTERS = ["customers", "orders", "returns", "stock", "prices", "suppliers", "forecast", "summary"]
#: How long uvicorn waits for calls under way when it is told to end.
GRACEFUL_SHUTDOWN_SECONDS = 5


def hash_password(password: str, salt: bytes) -> bytes:
    """Return scrypt's hash, which takes some 50 ms on purpose."""
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


# A demo user. A real application keeps (salt, hash) in a database, and no password anywhere.
_SALT = secrets.token_bytes(16)
USERS = {"demo": hash_password("demo", _SALT)}
NOBODY = secrets.token_bytes(64)


def is_password(user: str, password: str) -> bool:
    """Whether the password is the user's; as slow for unknown users, so that time tells nothing."""
    return hmac.compare_digest(USERS.get(user, NOBODY), hash_password(password, _SALT))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the logger, and close it when all background work has ended and been reported."""
    async with InProcessClient.from_config(CONFIG, source="webapp") as logger:
        app.state.logger = logger
        app.state.sessions = {}
        app.state.reports = set()
        logger.info("web application started")
        yield
        await cancel_reports()
        logger.info("web application stopped")


async def cancel_reports() -> None:
    """Cancel the work in the background, and wait until each job is reported as FAILED."""
    await asyncio.sleep(0)  # a task that is cancelled before its first step reports nothing
    reports = list(app.state.reports)
    for report in reports:
        report.cancel()
    await asyncio.gather(*reports, return_exceptions=True)


app = FastAPI(title="webapp", lifespan=lifespan)


async def get_logger(request: Request) -> AsyncLogger:
    """Return the logger, with the request's address on every record."""
    logger: AsyncLogger = request.app.state.logger
    return logger.bind(client_ip=source_ip(request))


async def get_user(request: Request, session: Annotated[str | None, Cookie()] = None) -> str:
    """Return who is logged in, or answer 401."""
    user: str | None = request.app.state.sessions.get(session)
    if user is None:
        raise HTTPException(401, "log in first")
    return user


Logger = Annotated[AsyncLogger, Depends(get_logger)]
User = Annotated[str, Depends(get_user)]


def source_ip(request: Request) -> str:
    """Return the address for audit events. Behind a proxy, run uvicorn with --forwarded-allow-ips.

    A client without one, such as FastAPI's `TestClient` or one that comes by a Unix socket, is `unknown`.
    """
    host = request.client.host if request.client else ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return "unknown"


class Credentials(BaseModel):
    """What POST /login takes. An audit event's user has at most 256 bytes."""

    user: str = Field(min_length=1, max_length=64)
    password: str = Field(max_length=256)


class Playlist(BaseModel):
    """What POST /playlists takes."""

    name: str = Field(min_length=1, max_length=100)
    songs: list[str] = Field(default=[], max_length=1000)


@app.exception_handler(EmitError)
async def refuse_what_cannot_be_recorded(request: Request, error: EmitError) -> JSONResponse:
    """Answer 503 where another try can help: what is not in the audit trail has not happened."""
    return JSONResponse({"detail": "not recorded; try again"}, 503 if error.retryable else 500)


@app.post("/login")
async def login(
    credentials: Credentials, request: Request, response: Response, logger: Logger
) -> dict[str, str]:
    """Log in. Both outcomes are audited, and the session begins only when that is committed."""
    user, address = credentials.user, source_ip(request)
    if not await run_in_threadpool(is_password, user, credentials.password):
        await logger.audit(
            "user.login.failure", user_id=user, source_ip=address, details={"method": "password"}
        )
        logger.warning("login failed", user=user)
        raise HTTPException(401, "unknown user or wrong password")
    await logger.audit("user.login.success", user_id=user, source_ip=address, details={"method": "password"})
    logger.info("user logged in", user=user)
    session = secrets.token_urlsafe()
    request.app.state.sessions[session] = user
    # With HTTPS also secure=True.
    response.set_cookie("session", session, httponly=True, samesite="strict")
    return {"user": user}


@app.post("/playlists", status_code=201)
async def create_playlist(playlist: Playlist, request: Request, user: User, logger: Logger) -> dict[str, str]:
    """Create a playlist. This demo has no database: all that is left of it is the audit event."""
    playlist_id = secrets.token_hex(8)
    details = {"playlist_id": playlist_id, "name": playlist.name, "songs": len(playlist.songs)}
    await logger.audit("playlist.create", user_id=user, source_ip=source_ip(request), details=details)
    return {"playlist_id": playlist_id}


@app.post("/reports", status_code=202)
async def create_report(request: Request, user: User, logger: Logger) -> dict[str, str]:
    """Begin a report in the background; its page is /reports/{job_id}."""
    job_id = f"report-{secrets.token_hex(8)}"
    job = logger.job(job_id, "report", total=len(CHAPTERS), labels={"user": user})
    await job.queued()
    task = asyncio.create_task(make_report(job, logger.bind(job=job_id)))
    request.app.state.reports.add(task)
    task.add_done_callback(request.app.state.reports.discard)
    return {"job_id": job_id}


async def make_report(job: AsyncJobReporter, logger: AsyncLogger) -> None:
    """Write the chapters. Whatever happens in here, the job does not stay RUNNING."""
    try:
        async with job:
            for number, chapter in enumerate(CHAPTERS, 1):
                job.message(f"writing chapter {number}: {chapter}")
                await asyncio.sleep(CHAPTER_SECONDS)  # the work
                job.advance()
            job.message("done")
            job.details({"chapters": len(CHAPTERS)})
    except Exception:
        logger.exception("report failed")


@app.get("/reports/{job_id}/events")
async def follow_report(
    job_id: str, user: User, logger: Logger, last_event_id: Annotated[str, Header()] = ""
) -> StreamingResponse:
    """Stream a report's progress as server-sent events; after a break, from Last-Event-ID on."""
    job = await logger.get_job(job_id)
    if job is None or job.labels.get("user") != user:
        raise HTTPException(404, "no such report")
    after_revision = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 19 else None
    return StreamingResponse(
        report_events(logger, job_id, after_revision),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def report_events(logger: AsyncLogger, job_id: str, after_revision: int | None) -> AsyncIterator[str]:
    """Yield one event for each update, and `end` after the last; a page that is closed frees the watcher."""
    try:
        async with aclosing(logger.watch_job(job_id, after_revision=after_revision)) as updates:
            async for update in updates:
                yield ": still here\n\n" if update.heartbeat else event("progress", update.job)
        yield event("end", update.job)
    except EmitError:
        yield "retry: 2000\n\n"  # the browser comes back in so many milliseconds


def event(name: str, job: v1.Job) -> str:
    """Return one server-sent event. JSON has no line breaks, so that no text can forge another event."""
    data = {
        "status": v1.JobState.Name(job.status).removeprefix("JOB_STATE_"),
        "progress": job.progress,
        "message": job.message,
        "failure": job.failure_message or job.failure_reason,  # what was cancelled has no message
    }
    return f"id: {job.revision}\nevent: {name}\ndata: {json.dumps(data)}\n\n"


@app.get("/")
@app.get("/reports/{job_id}")
def page(logger: Logger) -> FileResponse:
    """Return the page. A plain `def` runs in a thread; the logger may be used there too."""
    logger.debug("page opened")
    return FileResponse(HERE / "page.html")


class Server(uvicorn.Server):
    """Ends the reports first: then the pages that follow them end too, and uvicorn need not wait for those."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel the reports, then do what uvicorn does."""
        await cancel_reports()
        await super().shutdown(sockets)


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8000"))
    config = uvicorn.Config(
        app, port=port, timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS, access_log=False
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has ended
        Server(config).run()
