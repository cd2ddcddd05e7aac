"""`EmitdHandler` by `dictConfig` and `fileConfig`, in a program of its own, whose end delivers what was logged."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emitd.v1 import LEVEL_INFO
from support.client.fake_log_service import FakeLogService, accept, fake_log_service
from support.client.sent_lines import attributes_of, records_of

BEGIN = """
import logging, logging.config, sys, types
address = sys.argv[1]
def configure(handler, **more):
    root = {"handlers": ["emitd"], "level": "DEBUG"}
    logging.config.dictConfig({"version": 1, "handlers": {"emitd": handler}, "root": root, **more})
"""
BY_CLASS = """
configure({"class": "emitd.logging.EmitdHandler", "address": address, "source": "shop", "level": "INFO", "linger": 5})
"""
BY_FACTORY = """
from emitd.logging import EmitdHandler
configure({"()": EmitdHandler, "address": address, "source": "shop", "level": "INFO"})
"""
BY_ENVIRONMENT = """
import os
os.environ.update(EMITD_ADDRESS=address, EMITD_SOURCE="shop", EMITD_LEVEL="INFO")
configure({"class": "emitd.logging.EmitdHandler"})
"""
BY_CLIENT_ELSEWHERE = """
import emitd
sys.modules["app"] = types.ModuleType("app")
sys.modules["app"].client = emitd.LogClient(address, source="shop", level="INFO")
configure({"class": "emitd.logging.EmitdHandler", "client": "ext://app.client"})
"""
BY_CLIENT_IN_PLACE = """
import emitd
client = emitd.LogClient(address, source="shop", level="INFO")
configure({"class": "emitd.logging.EmitdHandler", "client": client})
"""
BY_REFERENCE = """
emitd = {"address": address, "source": "shop"}
handler = {"class": "emitd.logging.EmitdHandler", "address": "cfg://emitd.address", "source": "cfg://emitd.source"}
configure({**handler, "level": "INFO"}, emitd=emitd)
"""
BY_FILE = """
import io
logging.config.fileConfig(io.StringIO(f'''
[loggers]
keys=root
[handlers]
keys=emitd
[formatters]
keys=
[logger_root]
level=DEBUG
handlers=emitd
[handler_emitd]
class=emitd.logging.EmitdHandler
level=INFO
kwargs={{"address": "{address}", "source": "shop"}}
'''))
"""
LOG = """
logging.getLogger("shop.orders").debug("not this")
logging.getLogger("shop.orders").info("order %d", 17, extra={"user": "u1"})
"""
CONFIGURE_ANEW = """
configure({"class": "logging.NullHandler"})
"""
SHUT_DOWN = """
logging.shutdown()
"""

FORK = """
import os, time
import emitd.logging as shared_client
shared_client.IDLE_SECONDS = 0.1
handler = logging.getLogger().handlers[0]
configure({"class": "emitd.logging.EmitdHandler", "address": address, "source": "shop", "linger": 5})
assert logging.getLogger().handlers[0].client is handler.client
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    logging.info("child")
    configure({"class": "logging.NullHandler"})
    while handler.client.state != "closed":
        time.sleep(0.01)
    print("the child's is closed", file=sys.stderr)
"""


@pytest.fixture
def service() -> Iterator[FakeLogService]:
    with fake_log_service(accept) as service:
        yield service


def run(program: str, service: FakeLogService, folder: Path) -> str:
    """Run a program; return what it said."""
    environ = {**os.environ, "EMITD_SPOOL": str(folder / "spool")}
    command = [sys.executable, "-c", BEGIN + program, service.address]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "configure",
    [BY_CLASS, BY_FACTORY, BY_ENVIRONMENT, BY_CLIENT_ELSEWHERE, BY_CLIENT_IN_PLACE, BY_REFERENCE, BY_FILE],
    ids=["class", "factory", "environment", "ext", "client", "cfg", "file"],
)
def test_a_handler_is_configured_as_any_other(
    service: FakeLogService, tmp_path: Path, configure: str
) -> None:
    """With a client of its own, from settings or the environment, or with the program's; the program's end delivers."""
    assert run(configure + LOG, service, tmp_path) == ""
    (line,) = records_of(service)
    assert (line.message, line.level, line.source) == ("order 17", LEVEL_INFO, "shop")
    assert attributes_of(line) == {"logger.name": "shop.orders", "user": "u1"}


@pytest.mark.parametrize("end", [CONFIGURE_ANEW, SHUT_DOWN, CONFIGURE_ANEW + SHUT_DOWN])
def test_a_program_that_ends_just_after_it_closed_its_handler_delivers(
    service: FakeLogService, tmp_path: Path, end: str
) -> None:
    """The client, which nobody uses any more, is still flushed."""
    assert run(BY_CLASS + LOG + end, service, tmp_path) == ""
    assert [line.message for line in records_of(service)] == ["order 17"]


def test_a_wrong_setting_is_named_by_the_error(service: FakeLogService, tmp_path: Path) -> None:
    """`dictConfig` tells it as the cause of its own."""
    program = """
try:
    configure({"class": "emitd.logging.EmitdHandler", "linger": "soon"})
except ValueError as error:
    print(error, "<-", error.__cause__, file=sys.stderr)
"""
    said = run(program, service, tmp_path)
    # Nothing else: `logging` has nothing to do with a handler that was refused.
    assert said == "Unable to configure handler 'emitd' <- linger: Expected `float`, got `str`, not 'soon'\n"


def test_a_forked_child_ends_its_clients_too(service: FakeLogService, tmp_path: Path) -> None:
    """What watches over the end in the parent is not there in the child, which has its own."""
    assert run(BY_CLASS + LOG + FORK, service, tmp_path) == "the child's is closed\n"
    assert sorted(line.message for line in records_of(service)) == ["child", "order 17"]
