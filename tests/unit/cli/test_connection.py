"""What the errors of a call mean to a command."""

import socket
import time
from argparse import Namespace

import grpc
import pytest

from emitd.transport.reply import details_of
from emitd.v1 import EmitRequest, EmitResponse
from emitd_cli import connection
from emitd_cli.connection import (
    connect,
    describe,
    is_refusal,
    is_retryable,
    retry_seconds,
)
from emitd_cli.errors import CannotTell
from support.client.fake_log_service import fail, fake_log_service, make_status
from support.client.names import Names
from support.processes.run_main import run_main


def call(code: grpc.StatusCode, message: str, retry_after: float | None = None) -> grpc.RpcError:
    """The error of a call that a server ends so."""
    with (
        fake_log_service(fail(code, message, retry_after)) as service,
        connect(Namespace(address=service.address)) as server,
    ):
        with pytest.raises(grpc.RpcError) as raised:
            server.log.Emit(EmitRequest(), timeout=20)
        return raised.value


@pytest.fixture(scope="module")
def unreachable() -> grpc.RpcError:
    with fake_log_service(fail(grpc.StatusCode.INTERNAL, "")) as service:
        address = service.address
    with connect(Namespace(address=address)) as server, pytest.raises(grpc.RpcError) as raised:
        server.log.Emit(EmitRequest(), timeout=20)
    return raised.value


def test_no_server(unreachable: grpc.RpcError) -> None:
    """It says so, in one line that names the address, and may be there later."""
    assert describe(unreachable, "h:1").startswith("cannot reach h:1; is the service running there?")
    assert is_retryable(unreachable)
    assert not is_refusal(unreachable)
    assert retry_seconds(details_of(unreachable)) == 0.5


def test_a_server_that_says_when_to_come_back() -> None:
    """It is not taken for one that cannot be reached."""
    error = call(grpc.StatusCode.UNAVAILABLE, "disk is full", 2.5)
    assert describe(error, "h:1") == "UNAVAILABLE: disk is full"
    assert retry_seconds(details_of(error)) == 2.5


@pytest.mark.parametrize(
    ("code", "retry_after", "retryable", "refusal"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, None, False, True),
        (grpc.StatusCode.ALREADY_EXISTS, None, False, True),
        (grpc.StatusCode.FAILED_PRECONDITION, None, False, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, None, False, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0, True, False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, None, True, False),
        (grpc.StatusCode.UNAVAILABLE, 1.0, True, False),
        (grpc.StatusCode.INTERNAL, None, False, False),
        (grpc.StatusCode.UNIMPLEMENTED, None, False, False),
        (grpc.StatusCode.NOT_FOUND, None, False, False),
    ],
)
def test_verdicts(code: grpc.StatusCode, retry_after: float | None, retryable: bool, refusal: bool) -> None:
    """An error is for now, or a refusal for good, or says nothing about what was sent."""
    error = call(code, "text", retry_after)
    assert is_retryable(error) is retryable
    assert is_refusal(error) is refusal


def test_the_pause_for_a_record() -> None:
    """As its status says, never none at all, and half a second where it does not say."""
    unavailable = grpc.StatusCode.UNAVAILABLE
    assert retry_seconds(make_status(unavailable, "x", 3.0).details) == 3.0
    assert retry_seconds(make_status(unavailable, "x", 0.0).details) == 0.05
    assert retry_seconds(make_status(unavailable, "x", None).details) == 0.5


@pytest.mark.parametrize("arguments", [["emit", "x"], ["job", "get", "j"], ["job", "list"]], ids=" ".join)
def test_a_port_that_takes_calls_and_is_silent(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """The command says at the end that there was no answer: exit code 4."""
    monkeypatch.setattr(connection, "CALL_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = run_main(*arguments, "--address", address)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("emitd: DEADLINE_EXCEEDED: ")


def test_a_name_that_moves_is_found_by_the_same_connection() -> None:
    """A command that watches has one connection; grpc's own 30 s until it looks again would be long."""
    names = Names({"logs.test": ["127.0.0.9"]})
    with names.served() as name_server, fake_log_service(lambda *_: EmitResponse()) as service:
        port = service.address.rpartition(":")[2]
        with connect(Namespace(address=f"dns://{name_server}/logs.test:{port}")) as server:
            with pytest.raises(CannotTell, match="cannot reach dns://"):
                server.ask(server.log.Emit, EmitRequest())
            names["logs.test"] = ["127.0.0.1"]
            give_up_at = time.monotonic() + 20
            while True:
                try:
                    server.ask(server.log.Emit, EmitRequest())
                    break
                except CannotTell:
                    assert time.monotonic() < give_up_at
                    time.sleep(0.1)


@pytest.mark.parametrize("form", ["{}", "dns:///{}", "ipv4:{}", "{0},{0}"])
@pytest.mark.parametrize("command", ["emit x", "job watch --type t", "audit tail"])
def test_an_address_may_have_every_form_that_a_client_takes(form: str, command: str) -> None:
    """A URI, or several servers: the call arrives."""
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, "it arrived")) as service:
        done = run_main(*command.split(), "--address", form.format(service.address))
    assert done == (1 if command == "emit x" else 2, "", "emitd: INVALID_ARGUMENT: it arrived\n")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (" ", "--address: is empty; expected HOST:PORT"),
        ("http://h:1", "--address: 'http://h:1' is a URL; expected HOST:PORT"),
        ("h", "--address: 'h' has no port"),
        ("a:1,b", "--address: 'b' has no port"),
    ],
)
def test_what_is_no_address_is_misuse(address: str, told: str) -> None:
    """No call is made."""
    done = run_main("job", "list", "--address", address)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"emitd: {told}")
