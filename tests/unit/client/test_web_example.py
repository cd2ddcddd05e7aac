"""The web application beside the Python client, its parts by themselves: what HTTP alone cannot bring about."""

import importlib.util
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[3] / "clients/python/examples/webapp"
CONFIG = """
handlers:
  console: {type: console}
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
#: Enough of a browser for the page's script: says what is shown, and which streams are open.
BROWSER = """
const elements = {}, streams = []
function make() {
  const listeners = {}
  const listen = (name, call) => { listeners[name] = call }
  return {addEventListener: listen, listeners, value: 0, hidden: true, target: {}, dataset: {}}
}
globalThis.document = {querySelector: selector => elements[selector] ??= make()}
globalThis.location = {pathname: "/reports/r1"}
globalThis.history = {pushState: (state, title, path) => { location.pathname = path }}
globalThis.addEventListener = () => {}
globalThis.FormData = class { *[Symbol.iterator]() { yield ["user", "demo"] } }
globalThis.EventSource = class {
  static CLOSED = 2
  constructor(url) { this.url = url; this.readyState = 1; this.on = {}; streams.push(this) }
  addEventListener(name, call) { this.on[name] = call }
  close() { this.readyState = 2 }
}
let answer = {ok: true, status: 200, text: '{"user": null}'}
globalThis.fetch = async () => ({ok: answer.ok, status: answer.status, text: async () => answer.text,
                                 json: async () => JSON.parse(answer.text)})
const assert = require("node:assert")
const text = selector => elements[selector].textContent
const open = () => streams.filter(stream => stream.readyState === 1).map(stream => stream.url)
const job = (status, failure_message, failure_reason = "") => (
  {data: JSON.stringify({status, progress: 40, message: "<b>", failure_message, failure_reason})}
)
const shown = () => `${text("#state")} ${text("#percent")} ${text("#message")}`
"""


@pytest.fixture
def webapp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's module, with a configuration of its own."""
    (tmp_path / "emitd.yml").write_text(CONFIG)
    monkeypatch.setenv("WEBAPP_LOGGING_CONFIG", str(tmp_path / "emitd.yml"))
    spec = importlib.util.spec_from_file_location("webapp_example", EXAMPLE / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


async def test_a_report_that_was_only_just_begun_does_not_stay_queued(
    webapp: ModuleType, tmp_path: Path
) -> None:
    """The application may end before the task of a report has made its first step."""
    async with webapp.lifespan(webapp.app):
        await webapp.create_report("demo", webapp.emitd_web.logger)
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        rows = list(database.execute("SELECT status, failure_reason FROM job_logs"))
    assert rows == [("FAILED", "CANCELLED")]


def test_one_line_names_the_client() -> None:
    """Beside its import, only one line of the application knows which client it uses."""
    lines = (EXAMPLE / "app.py").read_text().splitlines()
    named = [line for line in lines if "InProcessClient" in line or "emitd_server" in line]
    assert [line.strip() for line in named] == [
        "from emitd_server import InProcessClient",
        'lambda: InProcessClient.from_config(CONFIG, source="webapp"),',
    ]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")
@pytest.mark.parametrize(
    "story",
    [
        pytest.param(
            """
            streams[0].on.progress(job("RUNNING", ""))
            assert.equal(shown(), "RUNNING 40 % <b>")
            assert.equal(elements["#job progress"].value, 40)
            streams[0].on.end(job("FAILED", "no paper"))
            assert.equal(shown(), "FAILED 40 % no paper")
            assert.deepEqual(open(), [])
            """,
            id="the last event closes the stream",
        ),
        pytest.param(
            """
            streams[0].on.end(job("FAILED", "", "CANCELLED"))
            assert.equal(shown(), "FAILED 40 % CANCELLED")
            """,
            id="a failure without a message shows its reason",
        ),
        pytest.param(
            """
            answer = {ok: true, status: 202, text: '{"job_id": "r 2"}'}
            await elements["#report"].listeners.click()
            assert.deepEqual(open(), ["/reports/r%202/events"])
            """,
            id="only the newest report is followed",
        ),
        pytest.param(
            """
            streams[0].readyState = 0
            streams[0].on.error()
            assert.match(text("#message"), /connecting again/)
            streams[0].readyState = EventSource.CLOSED
            streams[0].on.error()
            assert.match(text("#message"), /cannot be followed/)
            assert.equal(text("#user"), "not logged in")
            answer = {ok: true, status: 200, text: '{"user": "demo"}'}
            await elements["#login"].listeners.submit({preventDefault() {}, target: {}})
            assert.deepEqual(open(), ["/reports/r1/events"])
            assert.equal(text("#user"), "logged in as demo")
            """,
            id="a refused stream is told and comes back with the login",
        ),
        pytest.param(
            """
            answer = {ok: false, status: 500, text: "Internal Server Error"}
            await elements["#report"].listeners.click()
            assert.equal(text("#answer"), "500 Internal Server Error")
            """,
            id="an answer that is no JSON is shown",
        ),
        pytest.param(
            """
            answer = {ok: false, status: 401, text: '{"detail": "log in first"}'}
            await elements["#report"].listeners.click()
            assert.equal(text("#answer"), "401 log in first")
            assert.equal(elements["#login"].hidden, false)
            """,
            id="an end of the session shows the login again",
        ),
    ],
)
def test_the_page_follows(story: str, tmp_path: Path) -> None:
    """The page's script, in node with enough of a browser around it."""
    script = (EXAMPLE / "page.html").read_text().partition("<script>")[2].partition("</script>")[0]
    # A block of its own: in the page, `const` and `let` are the script's.
    program = f"{BROWSER}\n{{{script}}}\n(async () => {{await new Promise(setImmediate); {story}}})()"
    (tmp_path / "page.js").write_text(program)
    done = subprocess.run(["node", tmp_path / "page.js"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
