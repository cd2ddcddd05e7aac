"""Real servers that ask who calls: their configuration, what they have kept, and a client that sends all the time."""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from emitd.client import LogClient
from emitd.receipt import ReceiptState
from support.processes.run_main import run_main
from support.processes.server_process import ServerProcess

__all__ = ["Load", "config", "events_of", "grants_to", "lines_of", "new_token", "put", "start", "tls"]

HANDLERS = {
    "lines": {"type": "file", "path": "lines.log"},
    "audit": {"type": "json_audit", "path": "audit.log"},
    "jobs": {"type": "database_job", "database": "sqlite:///jobs.db"},
}
#: Starts a server in which some constants, `MODULE.NAME=EXPRESSION`, are other ones.
_PATCHED = """
import sys
from importlib import import_module
for patch in sys.argv[1].split(";"):
    place, _, value = patch.partition("=")
    module, _, name = place.rpartition(".")
    assert hasattr(import_module(module), name)
    setattr(import_module(module), name, eval(value))
from emitd_cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def tls(folder: Path | str = "certs", *, wants_client: bool = False) -> dict[str, Any]:
    """The files of a listener."""
    files = {"cert_file": f"{folder}/server.pem", "key_file": f"{folder}/server.key"}
    return files | ({"client_ca_file": f"{folder}/ca.pem"} if wants_client else {})


def grants_to(*names: str, **limits: object) -> list[dict[str, Any]]:
    """Each role; `limits` are of the writer."""
    others = [{"to": names, "role": role} for role in ("watcher", "auditor", "operator")]
    return [{"to": names, "role": "writer", **limits}, *others]


def config(*listen: object, grants: Sequence[Mapping[str, Any]] = (), **access: object) -> str:
    """A configuration: YAML has JSON in it."""
    server = {"listen": listen, "access": {**access, "grants": grants}}
    return json.dumps({"server": server, "handlers": HANDLERS}, indent=1)


def start(text: str, folder: Path, **patches: str) -> ServerProcess:
    """Run a server; `patches` are values of constants by their place, with `__` for each dot."""
    if not patches:
        return ServerProcess.start(text, folder)
    (folder / "emitd.yml").write_text(text)
    patch = ";".join(f"{place.replace('__', '.')}={value}" for place, value in patches.items())
    command = (sys.executable, "-c", _PATCHED, patch)
    server = ServerProcess.launch(folder, "--config", "emitd.yml", command=command)
    try:
        server.wait_until_up()
    except BaseException:
        server.kill()
        raise
    return server


def put(path: Path, content: bytes | str) -> None:
    """Replace a file as a whole."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    new.chmod(0o600)
    os.replace(new, path)


def new_token(folder: Path, name: str) -> str:
    """Make a token in `tokens.yml`."""
    done = run_main("token", "new", "--name", name, str(folder / "tokens.yml"))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def events_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log that are not the service's own."""
    lines = [json.loads(line) for line in (folder / "audit.log").read_text().splitlines()]
    return [line for line in lines if not line["event_name"].startswith("emitd.")]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The log lines."""
    return [json.loads(line) for line in (folder / "lines.log").read_text().splitlines()]


class Load:
    """Sends numbered lines, and an awaited event with each fifth, by a client of its own, until the block ends."""

    def __init__(self, address: str, folder: Path, *, timeout: float = 10.0, **settings: Any) -> None:
        quick = {"backoff_initial": 0.02, "backoff_max": 0.2, "linger": 0.02, "source": "shop"}
        self.client = LogClient(
            address, **{"spool": folder / "spool", **quick, "timeout": timeout, **settings}
        )
        #: How many lines were sent, and what became of the events.
        self.lines = 0
        self.events: list[ReceiptState] = []
        self.failure: BaseException | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.client.close(0.0)

    def stop(self) -> None:
        """Send no more."""
        self._is_over.set()
        self._thread.join(30)
        assert self.failure is None, self.failure

    def during(self, seconds: float = 1.0) -> None:
        """Let it go on for a time."""
        time.sleep(seconds)
        assert self.failure is None, self.failure

    def wait(self, is_so: Callable[[], object], seconds: float = 20.0) -> None:
        """Let it go on until something is so."""
        give_up_at = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < give_up_at, (self.client.stats(), Counter(self.events))
            time.sleep(0.02)

    def settle(self, seconds: float = 30.0) -> None:
        """Stop, and wait until all is where it belongs: nothing was dropped, put aside, or still waits."""
        self.stop()
        assert self.client.flush(seconds), self.client.stats()
        self.wait(lambda: self.client.stats()["spool_records"] == 0, seconds)
        stats = self.client.stats()
        assert stats["spool_rejected"] == 0, stats
        assert not [name for name, count in stats.items() if name.startswith("dropped") and count], stats

    def check(self, folder: Path) -> None:
        """Each line and each event is there once; call it when the server has ended."""
        found = Counter(event["details"]["n"] for event in events_of(folder))
        assert found == Counter(range(len(self.events)))
        kept = Counter(line["attributes"]["n"] for line in lines_of(folder))
        assert kept == Counter(range(self.lines))

    def _run(self) -> None:
        try:
            while not self._is_over.wait(0.005):
                self.client.info("line", n=self.lines)
                self.lines += 1
                if not self.lines % 5:
                    number = len(self.events)
                    receipt = self.client.audit("order.create", user_id="u", details={"n": number})
                    self.events.append(receipt.state)
        except BaseException as error:
            self.failure = error
