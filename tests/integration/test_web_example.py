"""The web application beside the Python client, run as users run it, and used over HTTP."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from support.docs.browser import CHROMIUM, Browser, Line
from support.processes.server_process import ServerProcess

EXAMPLE = Path(__file__).parents[2] / "clients/python/examples/webapp"
CONFIG = """
server:
  listen: 127.0.0.1:0
  watch: {max_watchers: 1, heartbeat_seconds: 0.1}
handlers:
  console: {type: console}
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
START_SECONDS = 30.0
DEADLINE_SECONDS = 30.0


class WebApp:
    """One run of `python app.py` on a free port, with a logging configuration of its own in `folder`."""

    def __init__(self, folder: Path, chapter_seconds: float, script: Path = EXAMPLE / "app.py") -> None:
        self._folder = folder
        (folder / "emitd.yml").write_text(CONFIG)
        environ = {
            **os.environ,
            "PORT": "0",
            "WEBAPP_LOGGING_CONFIG": str(folder / "emitd.yml"),
            "WEBAPP_CHAPTER_SECONDS": str(chapter_seconds),
            "EMITD_SPOOL": str(folder / "spool"),
        }
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            command = [sys.executable, script]
            self._process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environ)
        self.url = self._wait_for_url()

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout").read_text()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=DEADLINE_SECONDS, trust_env=False)

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(DEADLINE_SECONDS)

    def audit_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self._folder / "audit.json.log").read_text().splitlines()]

    def jobs(self) -> list[tuple[object, ...]]:
        database = sqlite3.connect(self._folder / "jobs.db")
        try:
            return list(database.execute("SELECT job_id, status, progress, failure_reason FROM job_logs"))
        finally:
            database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if match := re.search(r"running on (http://\S+)", self.stderr):
                return match[1]
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        raise AssertionError(f"the application did not come up:\n{self.stderr}")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebApp]:
    with WebApp(tmp_path, chapter_seconds=0.15) as web:
        yield web


@pytest.fixture
def slow_web(tmp_path: Path) -> Iterator[WebApp]:
    """Its reports do not end by themselves within any test."""
    with WebApp(tmp_path, chapter_seconds=3600) as web:
        yield web


@pytest.fixture
def browser(web: WebApp) -> Iterator[httpx.Client]:
    with web.client() as client:
        log_in(client)
        yield client


def log_in(client: httpx.Client) -> None:
    assert client.post("/login", json={"user": "demo", "password": "demo"}).status_code == 200


def begin_report(client: httpx.Client) -> str:
    answer = client.post("/reports")
    assert answer.status_code == 202
    return str(answer.json()["job_id"])


def events(lines: Iterator[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Parse server-sent events: (id, event, data)."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def follow(
    client: httpx.Client, job_id: str, last_event_id: str = ""
) -> Sequence[tuple[int, str, dict[str, Any]]]:
    """Return the events of a report's stream, to its end."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with client.stream("GET", f"/reports/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response.iter_lines()))


def test_logins_good_and_bad_are_audited(web: WebApp) -> None:
    """Both outcomes are in the trail with user and address and on the console; only the good one opens a session."""
    with web.client() as client:
        for user, password in [("demo", "wrong"), ("nobody", "demo")]:
            answer = client.post("/login", json={"user": user, "password": password})
            assert (answer.status_code, answer.json()) == (401, {"detail": "unknown user or wrong password"})
        assert client.post("/playlists", json={"name": "Monday"}).status_code == 401
        log_in(client)
        assert client.post("/playlists", json={"name": "Monday"}).status_code == 201
    assert [(line["event_name"], line["user_id"], line["source_ip"]) for line in web.audit_lines()] == [
        ("user.login.failure", "demo", "127.0.0.1"),
        ("user.login.failure", "nobody", "127.0.0.1"),
        ("user.login.success", "demo", "127.0.0.1"),
        ("playlist.create", "demo", "127.0.0.1"),
    ]
    assert web.stop() in (0, -signal.SIGTERM)
    assert re.search(
        r"\[WARNING\] \[webapp\] login failed client_ip=127\.0\.0\.1 request_id=\w{32} user=nobody",
        web.stdout,
    )
    assert re.search(
        r"\[INFO\] \[webapp\] user logged in client_ip=127\.0\.0\.1 request_id=\w{32} user=demo", web.stdout
    )


def test_nobody_forges_an_address(browser: httpx.Client, web: WebApp) -> None:
    """Nothing stands in front of this application, so what a sender says of itself goes into no record."""
    forged = {"X-Forwarded-For": "192.0.2.66", "X-Request-ID": "forged"}
    answer = browser.post("/playlists", json={"name": "Monday"}, headers=forged)
    line = web.audit_lines()[-1]
    assert line["source_ip"] == "127.0.0.1"
    assert line["attributes"] == {"client_ip": "127.0.0.1", "request_id": answer.headers["x-request-id"]}
    assert "forged" not in answer.headers.values()


def test_a_playlist_is_an_audit_event(browser: httpx.Client, web: WebApp) -> None:
    """What the user typed stands in the details as data, whatever it is."""
    name = 'x", "user_id": "root\n'
    answer = browser.post("/playlists", json={"name": name, "songs": ["a", "b"]})
    assert answer.status_code == 201
    line = web.audit_lines()[-1]
    assert line["details"] == {"playlist_id": answer.json()["playlist_id"], "name": name, "songs": 2}
    assert (line["user_id"], line["source"]) == ("demo", "webapp")


def test_a_report_is_followed_to_its_end(browser: httpx.Client, web: WebApp) -> None:
    """Progress rises to 100, each event has the job's revision as its id, and the last one is `end`."""
    told = follow(browser, job_id := begin_report(browser))
    names = [name for _, name, _ in told]
    assert names == ["progress"] * (len(told) - 1) + ["end"]
    progress = [data["progress"] for _, _, data in told]
    assert progress == sorted(progress)
    assert len(set(progress)) > 2
    last = told[-1][2]
    assert (last["status"], last["progress"], last["message"]) == ("COMPLETED", 100, "done")
    assert last["details"] == {"chapters": 8}
    ids = [number for number, _, _ in told]
    assert ids == sorted(set(ids))
    assert web.jobs() == [(job_id, "COMPLETED", 100, None)]


def test_a_broken_stream_resumes(browser: httpx.Client, web: WebApp) -> None:
    """With Last-Event-ID a new stream goes on to the end; the page that went away has freed its watcher."""
    job_id = begin_report(browser)
    with browser.stream("GET", f"/reports/{job_id}/events") as response:
        seen, _, first = next(events(response.iter_lines()))
    assert first["status"] in ("QUEUED", "RUNNING")
    deadline = time.monotonic() + DEADLINE_SECONDS
    # Only one may watch: until the server has noticed that the first is gone, it tells the browser to come back.
    while not (told := follow(browser, job_id, str(seen))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert told[-1][1] == "end"
    assert all(number >= seen for number, _, _ in told)
    assert told[-1][2]["status"] == "COMPLETED"


def test_a_page_that_knows_the_end_need_not_come_again(browser: httpx.Client) -> None:
    """Who comes back with the id of the last event is told by 204, after which a browser does not try again."""
    *_, (last_id, _, _) = follow(browser, job_id := begin_report(browser))
    answer = browser.get(f"/reports/{job_id}/events", headers={"Last-Event-ID": str(last_id)})
    assert (answer.status_code, answer.text) == (204, "")


def test_one_who_watches_keeps_others_out_at_the_limit(slow_web: WebApp) -> None:
    """At `max_watchers` a further page is told to come back, and gets in once the first has gone."""
    with slow_web.client() as client, slow_web.client() as other:
        log_in(client)
        log_in(other)
        job_id = begin_report(client)
        with client.stream("GET", f"/reports/{job_id}/events") as response:
            stream = events(response.iter_lines())  # forgotten, it would close the connection
            next(stream)
            assert other.get(f"/reports/{job_id}/events").text == "retry: 2000\n\n"
        deadline = time.monotonic() + DEADLINE_SECONDS
        told = None
        while told is None and time.monotonic() < deadline:
            with other.stream("GET", f"/reports/{job_id}/events") as response:
                told = next(events(response.iter_lines()), None)
        assert told is not None


def test_a_report_is_only_its_users(browser: httpx.Client, web: WebApp) -> None:
    """Without a session, or for a job that is not there, nothing is told; an odd Last-Event-ID harms nobody."""
    job_id = begin_report(browser)
    with web.client() as stranger:
        assert stranger.get(f"/reports/{job_id}/events").status_code == 401
        assert stranger.post("/reports").status_code == 401
    assert browser.get("/reports/report-0/events").status_code == 404
    assert follow(browser, job_id, "9" * 30 + "x")[-1][1] == "end"


def test_the_page_is_served_by_a_plain_function(browser: httpx.Client, web: WebApp) -> None:
    """The page comes from a route in a thread, which logs like all others."""
    for path in ("/", "/reports/any"):
        assert "new EventSource(" in browser.get(path).text
    assert web.stop() in (0, -signal.SIGTERM)
    assert web.stdout.count("[DEBUG] [webapp] page opened") == 2


def test_sigterm_ends_reports_and_streams_cleanly(slow_web: WebApp) -> None:
    """A report under way becomes FAILED and CANCELLED, its page is told so, and nothing hangs or complains."""
    with slow_web.client() as client:
        log_in(client)
        job_id = begin_report(client)
        with client.stream("GET", f"/reports/{job_id}/events") as response:
            stream = events(response.iter_lines())
            while next(stream)[2]["status"] != "RUNNING":
                pass
            code = slow_web.stop()
            *_, last = stream
    assert code in (0, -signal.SIGTERM)
    assert (last[1], last[2]["status"]) == ("end", "FAILED")
    assert slow_web.jobs() == [(job_id, "FAILED", 0, "CANCELLED")]
    assert slow_web.stdout.endswith("[INFO] [webapp] web application stopped\n")
    assert "ERROR" not in slow_web.stderr
    assert "Traceback" not in slow_web.stderr
    assert "dropped" not in slow_web.stderr


def on_a_server(folder: Path, address: str) -> Path:
    """Return a copy of the example's script with the lines changed that its README shows, and nothing else."""
    shutil.copytree(EXAMPLE, folder)
    diff = (EXAMPLE / "README.md").read_text().partition("```diff\n")[2].partition("```")[0]
    removed, added = ([line[1:] for line in diff.splitlines() if line[0] == sign] for sign in "-+")
    text = (folder / "app.py").read_text()
    for old, new in zip(removed, added, strict=True):
        assert text.count(f"{old}\n") == 1
        text = text.replace(old, new.replace("127.0.0.1:50051", address))
    (folder / "app.py").write_text(text)
    return folder / "app.py"


def test_on_a_server_it_is_another_line(tmp_path: Path) -> None:
    """With the client named that the README shows, all goes to a server: events, lines, and a report to its end."""
    for name in ("server", "web"):
        (tmp_path / name).mkdir()
    with ServerProcess.start(CONFIG, tmp_path / "server") as server:
        script = on_a_server(tmp_path / "example", server.address)
        with WebApp(tmp_path / "web", 0.05, script) as web, web.client() as client:
            log_in(client)
            answer = client.post("/playlists", json={"name": "Monday"})
            job_id = begin_report(client)
            told = follow(client, job_id)
            assert (told[-1][1], told[-1][2]["status"]) == ("end", "COMPLETED")
            headers = {"Last-Event-ID": str(told[-1][0])}
            assert client.get(f"/reports/{job_id}/events", headers=headers).status_code == 204
            assert web.stop() in (0, -signal.SIGTERM)
            assert "Traceback" not in web.stderr
        server.terminate()
        assert server.wait() == 0
    lines = [json.loads(line) for line in (tmp_path / "server/audit.json.log").read_text().splitlines()]
    assert [(line["event_name"], line["user_id"], line["source_ip"]) for line in lines] == [
        ("user.login.success", "demo", "127.0.0.1"),
        ("playlist.create", "demo", "127.0.0.1"),
    ]
    assert lines[1]["attributes"]["request_id"] == answer.headers["x-request-id"]
    stdout = (tmp_path / "server/stdout").read_text()
    assert "[INFO] [webapp] web application started" in stdout
    assert "[INFO] [webapp] web application stopped" in stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_in_a_real_browser(tmp_path: Path) -> None:
    """A user logs in, creates a playlist, and sees a report's bar move to the end over a connection that breaks.

    With `WEBAPP_SCREENSHOTS=folder` there are pictures of it.
    """
    folder = os.environ.get("WEBAPP_SCREENSHOTS")
    with (
        WebApp(tmp_path, chapter_seconds=0.3) as web,
        Line(int(web.url.rpartition(":")[2])) as line,
        Browser(tmp_path / "profile") as browser,
    ):

        def picture(name: str) -> None:
            if folder:
                time.sleep(0.3)  # the bar glides
                browser.screenshot(Path(folder) / f"{name}.png")

        browser.open(f"http://127.0.0.1:{line.port}/")
        browser.wait_for("document.querySelector('#user').textContent === 'not logged in'")
        browser.fill("#login [name=password]", "demo")
        browser.click("#login button")
        browser.wait_for("document.querySelector('#login').hidden")
        browser.fill("#playlist [name=name]", "<b>Friday</b>")
        browser.click("#playlist button")
        browser.wait_for("document.querySelector('#answer').textContent.includes('<b>Friday</b>')")

        browser.click("#report")
        progress = "document.querySelector('#job progress').value"
        browser.wait_for(f"{progress} >= 50")
        assert browser.text("#state") == "RUNNING"
        picture("half-way")
        line.cut()
        browser.wait_for("document.querySelector('#message').textContent.startsWith('connecting')")
        picture("cut")
        line.mend()
        browser.wait_for(f"{progress} === 100")
        assert (browser.text("#state"), browser.text("#message")) == ("COMPLETED", "done")
        picture("end")

        asked = line.asked.count(b"/events HTTP/1.1")
        assert re.search(rb"/events HTTP/1\.1\r\n(?:[^\r]+\r\n)*Last-Event-ID: \d+\r\n", line.asked)
        browser.open(browser.evaluate("location.href"))  # the report's own page
        browser.wait_for(f"{progress} === 100")
        assert line.asked.count(b"/events HTTP/1.1") == asked + 1
        assert browser.exceptions == []
        names = [entry["event_name"] for entry in web.audit_lines()]
        assert names == ["user.login.success", "playlist.create"]
