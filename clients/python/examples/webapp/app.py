"""A web application that logs, audits and reports its jobs through emitd, in its own process.

A login and a playlist leave audit events; a report is made in the background, and a page follows it live by
server-sent events. Routes get a logger that knows their request. They use the interface `emitd.AsyncLogger`; one line
here chooses the client.

    python app.py                          # then open http://127.0.0.1:8000, user demo, password demo
"""

import asyncio
import hashlib
import hmac
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Cookie, Depends, FastAPI, HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from emitd import AsyncJobReporter, AsyncLogger
from emitd.fastapi import EmitdFastAPI, JobEvents, RequestLogger
from emitd_server import InProcessClient

HERE = Path(__file__).parent
CONFIG = os.environ.get("WEBAPP_LOGGING_CONFIG", HERE / "logging_config.yml")
#: How long each chapter of a report takes.
CHAPTER_SECONDS = float(os.environ.get("WEBAPP_CHAPTER_SECONDS", "0.5"))
CHAPTERS = ["customers", "orders", "returns", "stock", "prices", "suppliers", "forecast", "summary"]
#: How long uvicorn waits for open calls when it stops.
GRACEFUL_SHUTDOWN_SECONDS = 5


def hash_password(password: str, salt: bytes) -> bytes:
    """Return scrypt's hash, which takes some 50 ms on purpose."""
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


# A demo user. A real application keeps (salt, hash) in a database, and no password anywhere.
_SALT = secrets.token_bytes(16)
USERS = {"demo": hash_password("demo", _SALT)}
NOBODY = secrets.token_bytes(64)

#: The logged-in user for each value of the cookie.
sessions: dict[str, str] = {}
#: The reports in progress.
reports: set[asyncio.Task[None]] = set()


def is_password(user: str, password: str) -> bool:
    """Whether the password is the user's; as slow for unknown users, so that the time shows nothing."""
    return hmac.compare_digest(USERS.get(user, NOBODY), hash_password(password, _SALT))


async def get_session_user(session: Annotated[str | None, Cookie()] = None) -> str | None:
    """Return the logged-in user, or None."""
    return sessions.get(session or "")


async def get_user(user: Annotated[str | None, Depends(get_session_user)]) -> str:
    """Return the logged-in user, or answer 401."""
    if user is None:
        raise HTTPException(401, "log in first")
    return user


async def cancel_reports() -> None:
    """Cancel the work in the background, and wait until each job is reported as FAILED."""
    await asyncio.sleep(0)  # a task that is cancelled before its first step reports nothing
    for report in (under_way := list(reports)):
        report.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)


emitd_web = EmitdFastAPI(
    # With a server: lambda: AsyncLogClient(source="webapp")
    lambda: InProcessClient.from_config(CONFIG, source="webapp"),
    user=get_session_user,
    on_stop=cancel_reports,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the logger, and close it when all background work has ended and been reported."""
    async with emitd_web.lifespan(app):
        emitd_web.logger.info("web application started")
        yield
        await cancel_reports()
        emitd_web.logger.info("web application stopped")


app = FastAPI(title="webapp", lifespan=lifespan)
emitd_web.install(app)

Logger = Annotated[RequestLogger, Depends(emitd_web.request_logger)]
Events = Annotated[JobEvents, Depends(emitd_web.job_events)]
User = Annotated[str, Depends(get_user)]


class Credentials(BaseModel):
    """The body of POST /login. An audit event's user has at most 256 bytes."""

    user: str = Field(min_length=1, max_length=64)
    password: str = Field(max_length=256)


class Playlist(BaseModel):
    """The body of POST /playlists."""

    name: str = Field(min_length=1, max_length=100)
    songs: list[str] = Field(default=[], max_length=1000)


@app.post("/login")
async def login(credentials: Credentials, response: Response, logger: Logger) -> dict[str, str]:
    """Log in. Success and failure are audited, and the session begins after the audit event is committed."""
    user = credentials.user
    if not await run_in_threadpool(is_password, user, credentials.password):
        await logger.audit("user.login.failure", user_id=user, details={"method": "password"})
        logger.warning("login failed", user=user)
        raise HTTPException(401, "unknown user or wrong password")
    await logger.audit("user.login.success", user_id=user, details={"method": "password"})
    logger.info("user logged in", user=user)
    session = secrets.token_urlsafe()
    sessions[session] = user
    # With HTTPS also secure=True.
    response.set_cookie("session", session, httponly=True, samesite="strict")
    return {"user": user}


@app.get("/session")
async def get_session(user: Annotated[str | None, Depends(get_session_user)]) -> dict[str, str | None]:
    """Return the logged-in user, for the page."""
    return {"user": user}


@app.post("/playlists", status_code=201)
async def create_playlist(playlist: Playlist, user: User, logger: Logger) -> dict[str, str]:
    """Create a playlist. This demo has no database: the audit event is the only trace."""
    playlist_id = secrets.token_hex(8)
    details = {"playlist_id": playlist_id, "name": playlist.name, "songs": len(playlist.songs)}
    await logger.audit("playlist.create", details=details)
    return {"playlist_id": playlist_id}


@app.post("/reports", status_code=202)
async def create_report(user: User, logger: Logger) -> dict[str, str]:
    """Begin a report in the background; its page is /reports/{job_id}."""
    job_id = f"report-{secrets.token_hex(8)}"
    job = logger.job(job_id, "report", total=len(CHAPTERS), labels={"user": user})
    await job.queued()
    task = asyncio.create_task(make_report(job, logger.bind(job=job_id)))
    reports.add(task)
    task.add_done_callback(reports.discard)
    return {"job_id": job_id}


async def make_report(job: AsyncJobReporter, logger: AsyncLogger) -> None:
    """Write the chapters. On any error the job becomes FAILED."""
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
async def follow_report(job_id: str, user: User, events: Events) -> Response:
    """Stream a report's progress as server-sent events; after a break, from Last-Event-ID on."""
    return await events(job_id, may_see=lambda job: job.labels.get("user") == user)


@app.get("/")
@app.get("/reports/{job_id}")
def page(logger: Logger) -> FileResponse:
    """Return the page. A plain `def` runs in a thread; the logger may be used there too."""
    logger.debug("page opened")
    return FileResponse(HERE / "page.html")


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(os.environ.get("PORT", "8000")),
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS,
        access_log=False,
        proxy_headers=False,  # the address is emitd's to read: see `trusted_proxies`
    )
