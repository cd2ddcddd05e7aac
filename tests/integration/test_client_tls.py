"""Clients and commands that speak TLS and bring a token: to servers that know them, and to servers that do not."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from emitd import RequestRejected, Unavailable, credentials
from emitd.async_client import AsyncLogClient
from emitd.client import LogClient
from emitd.credentials import Credentials
from emitd.spool import manager as spool_manager
from emitd.transport.channel import make_channel
from emitd.v1 import (
    EmitBatchRequest,
    EmitBatchResponse,
    GetJobResponse,
    Job,
    JobState,
    ListJobsResponse,
    LogRecord,
    RecordError,
    WatchJobResponse,
)
from emitd_cli.errors import ExitCode
from support.client.answers import routed
from support.client.authority import Authority, Pair
from support.client.fake_log_service import (
    Answer,
    FakeLogService,
    accept,
    fail,
    fake_log_service,
    known_by,
    record_error,
)
from support.client.sending import audit, clients_in, numbers, records, until
from support.processes.run_main import run_main
from support.soak.server import free_port

UNAUTHENTICATED = fail(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
DENIED = fail(grpc.StatusCode.PERMISSION_DENIED, "needs the role writer")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server_pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture(scope="module")
def client_pair(authority: Authority) -> Pair:
    return authority.issue("client")


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[Callable[..., LogClient]]:
    with clients_in(tmp_path) as make:
        yield make


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files with each call."""
    monkeypatch.setattr(credentials, "LOOK_SECONDS", 0.0)


def job_answers(request: Any, context: grpc.ServicerContext) -> Any:
    """Say of every job that it is there, and has not ended."""
    watch = iter([WatchJobResponse(job=Job(job_id="j", revision=1))])
    answers: dict[str, Answer] = {
        "GetJobRequest": lambda *_: GetJobResponse(job=Job(job_id="j")),
        "ListJobsRequest": lambda *_: ListJobsResponse(),
        "WatchJobRequest": lambda *_: watch,
    }
    return routed(**answers)(request, context)


class TestAServerThatKnowsTheClient:
    """By its certificate and its token, with each kind of call."""

    @pytest.fixture
    def service(self, authority: Authority, server_pair: Pair) -> Iterator[FakeLogService]:
        with fake_log_service(
            known_by("secret", answer=job_answers),
            credentials=authority.server(server_pair, wants_client=True),
        ) as service:
            yield service

    def settings(self, authority: Authority, client_pair: Pair) -> dict[str, Any]:
        return {"ca_file": authority.ca_file, "token": "secret", **client_pair.settings}

    def test_a_client(
        self,
        service: FakeLogService,
        make_client: Callable[..., LogClient],
        authority: Authority,
        client_pair: Pair,
    ) -> None:
        """Lines, events, questions and streams."""
        client = make_client(service.address, **self.settings(authority, client_pair))
        client.info("a line")
        assert client.flush(10.0)
        assert audit(client, 1).state == "COMMITTED"
        assert client.get_job("j") is not None
        assert [message.job.job_id for message in client.watch_job("j")] == ["j"]
        assert client.stats()["sent"] == 2

    async def test_a_client_of_asyncio(
        self, service: FakeLogService, authority: Authority, client_pair: Pair, tmp_path: Path
    ) -> None:
        """The same."""
        settings = self.settings(authority, client_pair)
        async with AsyncLogClient(service.address, spool=tmp_path, **settings) as client:
            receipt = await client.audit("x", user_id="u")
            assert receipt.state == "COMMITTED"
            assert await client.get_job("j") is not None
            assert [message.job.job_id async for message in client.watch_job("j")] == ["j"]

    def test_commands(
        self, service: FakeLogService, authority: Authority, client_pair: Pair, tmp_path: Path
    ) -> None:
        """By flags, and by the environment."""
        (tmp_path / "token").write_text("secret\n")
        flags = [
            "--ca-file",
            authority.ca_file,
            "--token-file",
            tmp_path / "token",
            "--address",
            service.address,
        ]
        flags += ["--cert-file", client_pair.cert_file, "--key-file", client_pair.key_file]
        given = list(map(str, flags))
        assert run_main("job", "get", "j", *given).returncode == ExitCode.GOOD
        assert run_main("job", "watch", "j", *given, "--timeout", "20").returncode == ExitCode.GOOD
        assert run_main("emit", "--file", str(tmp_path / "token"), *given).returncode == ExitCode.GOOD

    def test_several_names_are_one_server_s(
        self, make_client: Callable[..., LogClient], authority: Authority
    ) -> None:
        """Its certificate has to have the first of them."""
        named = authority.server(authority.issue("named", hosts=["localhost"]))
        with fake_log_service(job_answers, credentials=named) as service:
            port = service.address.rpartition(":")[2]
            client = make_client(f"localhost:{port},127.0.0.1:{port}", ca_file=authority.ca_file)
            assert client.get_job("j") is not None
            client = make_client(f"127.0.0.1:{port},localhost:{port}", ca_file=authority.ca_file, timeout=0.5)
            said = cause_of(lambda: client.get_job("j"))
            assert said.endswith("the server's certificate does not have this name")

    def test_a_socket(self, authority: Authority, server_pair: Pair, tmp_path: Path) -> None:
        """Its server's certificate is one for localhost."""
        address = f"unix:{tmp_path}/s"
        target = Credentials(address, is_tls=True, ca_file=str(authority.ca_file))
        with ThreadPoolExecutor(1) as threads:
            server = grpc.server(threads)
            server.add_secure_port(address, authority.server(server_pair))
            server.start()
            with make_channel(target) as channel:
                grpc.channel_ready_future(channel).result(10)
            server.stop(None).wait()


class Trouble(NamedTuple):
    """A server that cannot be reached: its credentials, how the client tries, and what is said."""

    server: Callable[[Authority], grpc.ServerCredentials | None]
    client: Callable[[Authority], dict[str, Any]]
    said: str


def trusting(authority: Authority) -> dict[str, Any]:
    return {"ca_file": authority.ca_file}


TROUBLES = {
    "expired": Trouble(
        lambda authority: authority.server(authority.issue("old", (-3, -1))),
        trusting,
        "the server's certificate has expired",
    ),
    "not yet valid": Trouble(
        lambda authority: authority.server(authority.issue("early", (1, 2))),
        trusting,
        "the server's certificate is not valid yet",
    ),
    "not trusted": Trouble(
        lambda authority: authority.server(authority.issue("server")),
        lambda authority: {"ca_file": Authority(authority.ca_file.parent, "another").ca_file},
        "the server's certificate is not trusted",
    ),
    "not trusted by grpc": Trouble(
        lambda authority: authority.server(authority.issue("server")),
        lambda authority: {"tls": True},
        "the server's certificate is not trusted",
    ),
    "another name": Trouble(
        lambda authority: authority.server(authority.issue("elsewhere", hosts=["elsewhere.example"])),
        trusting,
        "the server's certificate does not have this name",
    ),
    "a plain server": Trouble(lambda authority: None, trusting, "the server does not speak TLS there"),
    "a plain client": Trouble(
        lambda authority: authority.server(authority.issue("server")),
        lambda authority: {},
        "perhaps it speaks TLS",
    ),
    "no client certificate": Trouble(
        lambda authority: authority.server(authority.issue("server"), wants_client=True),
        trusting,
        "perhaps it asks for a client's certificate",
    ),
    "a client certificate that is not trusted": Trouble(
        lambda authority: authority.server(authority.issue("server"), wants_client=True),
        lambda authority: {
            **trusting(authority),
            **Authority(authority.ca_file.parent, "another").issue("c").settings,
        },
        "perhaps it does not accept the client's certificate",
    ),
    "a client certificate that has expired": Trouble(
        lambda authority: authority.server(authority.issue("server"), wants_client=True),
        lambda authority: {**trusting(authority), **authority.issue("oldc", (-3, -1)).settings},
        "the client's certificate has expired",
    ),
}


def cause_of(ask: Callable[[], object]) -> str:
    """What is said of a call; on a busy machine none may have the time to learn anything."""
    for _ in range(10):
        try:
            ask()
        except Unavailable as error:
            if "cannot reach" in str(error):
                return str(error)
    return ""


class TestAServerThatCannotBeReached:
    @pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
    def test_the_cause_is_named(
        self,
        trouble: Trouble,
        authority: Authority,
        make_client: Callable[..., LogClient],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The same by a question, by an event, on standard error, and by a command."""
        server, settings = trouble.server(authority), trouble.client(authority)
        with fake_log_service(job_answers, credentials=server) as service:
            client = make_client(service.address, timeout=0.5, spool="off", **settings)
            expected = f"cannot reach {service.address}: .*{trouble.said}"
            said = ""

            def is_reported() -> bool:
                nonlocal said
                said += capsys.readouterr().err
                return "records are not taken" in said

            client.info("a line")
            until(is_reported)
            assert re.findall(f"shop: records are not taken: {expected}", said)
            with pytest.raises(Unavailable, match=expected):
                audit(client, 1)
            assert re.match(f"UNAVAILABLE: {expected}", cause_of(lambda: client.get_job("j")))
            assert not is_reported() or said.count("records are not taken") == 1
            flags = [f"--{name.replace('_', '-')}={path}" for name, path in settings.items() if name != "tls"]
            flags += ["--tls"] if "tls" in settings else []
            done = run_main("job", "get", "j", "--address", service.address, *flags)
            assert done.returncode == ExitCode.CANNOT_TELL
            assert re.fullmatch(f"emitd: {expected}.*", done.stderr.strip())

    async def test_a_client_of_asyncio_names_it_too(self, authority: Authority, tmp_path: Path) -> None:
        """By its own channel."""
        old = authority.server(authority.issue("old", (-3, -1)))
        with fake_log_service(accept, credentials=old) as service:
            async with AsyncLogClient(
                service.address, ca_file=authority.ca_file, timeout=3.0, spool=tmp_path
            ) as client:
                with pytest.raises(Unavailable, match="the server's certificate has expired"):
                    await client.get_job("j")

    def test_a_command_s_standard_error_has_its_own_lines_only(self, authority: Authority) -> None:
        """Not those of grpc, between lines of JSON."""
        old = authority.server(authority.issue("old", (-3, -1)))
        command = [
            sys.executable,
            "-m",
            "emitd_cli",
            "job",
            "get",
            "j",
            "--json",
            "--ca-file",
            authority.ca_file,
        ]
        with fake_log_service(accept, credentials=old) as service:
            done = subprocess.run(
                [*command, "--address", service.address],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        assert done.returncode == ExitCode.CANNOT_TELL
        error = json.loads(done.stderr)["error"]
        assert error["code"] == "UNAVAILABLE"
        assert error["message"] == f"cannot reach {service.address}: the server's certificate has expired"


@pytest.mark.usefixtures("looks_always")
class TestRotation:
    def test_a_certificate_changes_under_live_traffic(
        self, authority: Authority, make_client: Callable[..., LogClient], tmp_path: Path
    ) -> None:
        """The next call has the new one; no record is lost, and none comes twice."""
        names: list[str] = []

        def note_name(request: Any, context: grpc.ServicerContext) -> Any:
            names.append(context.auth_context()["x509_common_name"][0].decode())
            return accept(request, context)

        mine, pairs = Authority(tmp_path).issue("mine"), [authority.issue(f"client{n}") for n in range(4)]
        put = lambda pair: [os.replace(*files) for files in zip(pair, mine, strict=True)]  # noqa: E731
        put(pairs[0])
        server = authority.server(authority.issue("server"), wants_client=True)
        with fake_log_service(note_name, credentials=server) as service:
            client = make_client(service.address, ca_file=authority.ca_file, **mine.settings)
            for number in range(400):
                if number % 100 == 50 and number > 50:
                    put(pairs[number // 100])
                client.info("line", n=number)
                if not number % 10:
                    assert audit(client, 1000 + number).state == "COMMITTED"
            assert client.flush(10.0)
            assert sorted(numbers(records(service))) == [*range(400), *range(1000, 1400, 10)]
            assert list(dict.fromkeys(names)) == ["client0", "client1", "client2", "client3"]
            assert (client.stats()["sent"], client.stats().get("resent", 0)) == (440, 0)

    def test_a_call_under_way_keeps_its_connection(
        self, authority: Authority, make_client: Callable[..., LogClient], tmp_path: Path
    ) -> None:
        """While the next one makes another; it is not sent again."""
        may_end, peers = threading.Event(), set[str]()

        def hold(request: Any, context: grpc.ServicerContext) -> Any:
            peers.add(context.peer())
            if isinstance(request, EmitBatchRequest):
                may_end.wait(20)
            return job_answers(request, context)

        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(authority.ca_file.read_bytes())
        with fake_log_service(hold, credentials=authority.server(authority.issue("server"))) as service:
            client = make_client(service.address, ca_file=trusted)
            client.info("line", n=1)
            until(lambda: service.requests)
            trusted.write_bytes(authority.ca_file.read_bytes() + b"\n")
            assert client.get_job("j") is not None
            may_end.set()
            assert client.flush(10.0)
            assert [type(each) for each in service.requests].count(EmitBatchRequest) == 1
            assert len(peers) == 2

    def test_the_server_changes_to_another_authority(
        self, authority: Authority, make_client: Callable[..., LogClient], tmp_path: Path
    ) -> None:
        """Calls go on as soon as the client's file has it too."""
        other = Authority(tmp_path, "next")
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(authority.ca_file.read_bytes())
        port = free_port()
        with fake_log_service(
            accept, port=port, credentials=authority.server(authority.issue("s"))
        ) as service:
            client = make_client(service.address, ca_file=trusted, spool="off", timeout=20.0)
            assert audit(client, 1).state == "COMMITTED"
        with fake_log_service(accept, port=port, credentials=other.server(other.issue("s"))) as service:
            waiting = threading.Thread(target=audit, args=(client, 2))
            waiting.start()
            until(lambda: "is not trusted" in str([each.failure for each in client._engine.events._awaited]))
            trusted.write_bytes(authority.ca_file.read_bytes() + other.ca_file.read_bytes())
            waiting.join(20)
            assert numbers(records(service)) == [2]

    async def test_a_new_certificate_for_a_client_of_asyncio(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        """Its questions go on with the new one, over a channel of its own."""
        names: list[str] = []

        def note_name(request: Any, context: grpc.ServicerContext) -> Any:
            names.append(context.auth_context()["x509_common_name"][0].decode())
            return job_answers(request, context)

        mine, new = Authority(tmp_path).issue("mine"), authority.issue("new")
        for pair in (authority.issue("old"),):
            [os.replace(*files) for files in zip(pair, mine, strict=True)]
        server = authority.server(authority.issue("server"), wants_client=True)
        with fake_log_service(note_name, credentials=server) as service:
            async with AsyncLogClient(
                service.address, spool="off", ca_file=authority.ca_file, **mine.settings
            ) as client:
                await client.get_job("j")
                [os.replace(*files) for files in zip(new, mine, strict=True)]
                await client.get_job("j")
        assert names == ["old", "new"]


@pytest.mark.usefixtures("looks_always")
class TestARightThatIsMissing:
    """Or a sender that nobody knows: tokens are renewed, and rights are granted."""

    @pytest.mark.parametrize(
        "refusal", [UNAUTHENTICATED, DENIED], ids=["UNAUTHENTICATED", "PERMISSION_DENIED"]
    )
    def test_an_event_is_spooled_and_stays_there(
        self, refusal: Answer, make_client: Callable[..., LogClient], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Until the service takes it; a line waits, as for a server that is down."""
        with fake_log_service(refusal) as service:
            client = make_client(service.address)
            assert audit(client, 1, timeout=0.05).state == "SPOOLED"
            client.info("line", n=2)
            seen = len(service.requests)
            until(lambda: len(service.requests) > seen + 5)
            stats = client.stats()
            assert (stats["spool_records"], stats["spool_rejected"]) == (1, 0)
            service.answer_with(accept)
            until(lambda: client.stats()["replayed"] == 1)
            assert client.flush(10.0)
            assert {1, 2} == set(numbers(records(service)))
            assert (client.stats()["sent"], client.stats().get("resent", 0)) == (1, 0)
        assert capsys.readouterr().err.count("emitd: shop: records are not taken: ") == 1

    def test_without_a_spool_the_call_raises(self, make_client: Callable[..., LogClient]) -> None:
        """When its time is over; the reason is in the error."""
        with fake_log_service(DENIED) as service:
            client = make_client(service.address, spool="off")
            with pytest.raises(Unavailable, match="PERMISSION_DENIED: needs the role writer"):
                audit(client, 1, timeout=1.0)
            with pytest.raises(RequestRejected, match="PERMISSION_DENIED: needs the role writer"):
                client.get_job("j")

    def test_records_that_are_denied_hold_up_no_others(self, make_client: Callable[..., LogClient]) -> None:
        """Also if more of them than a batch has come first; they are not sent again with each that comes later."""
        port = free_port()
        client = make_client(f"127.0.0.1:{port}", batch_records=3)
        for number in [*range(10, 20), *range(30, 35)]:
            audit(client, number, timeout=0.001)
        with fake_log_service(deny_tens, port=port) as service:
            until(lambda: client.stats()["replayed"] == 5)
            assert {30, 31, 32, 33, 34} <= set(numbers(records(service)))
            assert audit(client, 40).state == "COMMITTED"
            seen = len(service.requests)
            client._engine._spool.append([LogRecord(message="later").SerializeToString()])
            until(lambda: client.stats()["replayed"] == 6)
            assert [len(request.records) for request in service.requests[seen:]] == [1]
            stats = client.stats()
            assert (stats["spool_records"], stats["spool_rejected"]) == (10, 0)

    def test_records_that_are_denied_are_tried_again(
        self, make_client: Callable[..., LogClient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By themselves; a right may be granted."""
        monkeypatch.setattr(spool_manager, "DENIED_SECONDS", 1.0)
        port = free_port()
        client = make_client(f"127.0.0.1:{port}", batch_records=3)
        for number in range(10, 20):
            audit(client, number, timeout=0.001)
        with fake_log_service(deny_tens, port=port) as service:
            until(lambda: len(service.requests) >= 8)
            assert client.stats()["spool_records"] == 10
            service.answer_with(accept)
            until(lambda: client.stats()["replayed"] == 10)
            assert client.stats()["spool_records"] == 0

    def test_a_line_that_is_denied_alone_is_dropped(
        self, make_client: Callable[..., LogClient], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """And counted: it would wait before all others; with `spool_records="all"` it is spooled."""
        denied = record_error(0, "no right to DEBUG", code=grpc.StatusCode.PERMISSION_DENIED)
        with fake_log_service(lines_denied(denied), accept) as service:
            client = make_client(service.address)
            for number in range(3):
                client.info("line", n=number)
            assert client.flush(10.0)
            until(lambda: client.stats().get("dropped_refused") == 1)
        assert (
            "dropped 1 record: refused (last: PERMISSION_DENIED: no right to DEBUG)"
            in capsys.readouterr().err
        )
        with fake_log_service(lines_denied(denied), accept) as service:
            client = make_client(service.address, spool_records="all", linger=0.2)
            client.info("line", n=7)
            client.info("line", n=8)
            assert client.flush(10.0)
            until(lambda: client.stats()["replayed"] == 1)
            assert numbers(records(service)).count(7) == 2
            assert client.stats().get("dropped_refused", 0) == 0

    def test_a_stream_goes_on_with_a_new_token(
        self, make_client: Callable[..., LogClient], tmp_path: Path
    ) -> None:
        """If there is one, which is no outage; else it ends."""
        token_file = tmp_path / "token"
        token_file.write_text("first")
        with fake_log_service(until_renewed(token_file)) as service:
            client = make_client(service.address, token_file=token_file)
            outages: list[object] = []
            watch = client.watch_job("j", on_outage=outages.append)
            assert [message.job.revision for message in watch] == [1, 2]
            assert outages == []
            with pytest.raises(RequestRejected, match=r"^UNAUTHENTICATED: the token has ended$"):
                list(client.watch_job("j"))

    async def test_a_stream_of_asyncio_does_too(self, tmp_path: Path) -> None:
        """By the same rule."""
        token_file = tmp_path / "token"
        token_file.write_text("first")
        with fake_log_service(until_renewed(token_file)) as service:
            async with AsyncLogClient(service.address, token_file=token_file, spool="off") as client:
                assert [message.job.revision async for message in client.watch_job("j")] == [1, 2]
                with pytest.raises(RequestRejected, match=r"^UNAUTHENTICATED: the token has ended$"):
                    [message async for message in client.watch_job("j")]

    def test_a_command_s_watch_goes_on_too(self, tmp_path: Path) -> None:
        """And ends with 4 without a new token."""
        token_file = tmp_path / "token"
        token_file.write_text("first")
        with fake_log_service(until_renewed(token_file)) as service:
            watch = ("job", "watch", "j", "--address", service.address, "--token-file", str(token_file))
            done = run_main(*watch)
            assert (done.returncode, done.stderr) == (ExitCode.GOOD, "")
            done = run_main(*watch)
            assert (done.returncode, done.stderr) == (
                ExitCode.CANNOT_TELL,
                "emitd: UNAUTHENTICATED: the token has ended\n",
            )


def refuse_in(response: EmitBatchResponse, errors: Sequence[RecordError]) -> EmitBatchResponse:
    """Refuse some of the records of a response."""
    for error in errors:
        if response.receipts:
            response.receipts[error.index].Clear()
    response.accepted_count -= len(errors)
    response.errors.extend(errors)
    return response


def deny_tens(request: Any, context: grpc.ServicerContext) -> EmitBatchResponse:
    """Accept all but the events with a number from 10 to 19."""
    bad = [n for n, record in enumerate(request.records) if '"n":1' in record.audit.details_json]
    errors = [record_error(n, "no right", code=grpc.StatusCode.PERMISSION_DENIED) for n in bad]
    return refuse_in(accept(request, context), errors)


def lines_denied(error: RecordError) -> Answer:
    return lambda request, context: refuse_in(accept(request, context), [error])


def until_renewed(token_file: Path) -> Answer:
    """Take the first token until the watch has begun, and then only a second one, for one watch."""
    tokens = ["first"]

    def watch(request: Any, context: grpc.ServicerContext) -> Iterator[WatchJobResponse]:
        revision = request.after_revision + 1
        state = JobState.JOB_STATE_RUNNING if revision == 1 else JobState.JOB_STATE_COMPLETED
        yield WatchJobResponse(job=Job(job_id="j", job_type="t", revision=revision, status=state))
        if tokens == ["first"]:
            token_file.write_text("second")
            tokens[:] = ["second"]
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has ended")
        tokens[:] = ["none"]

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        token = dict(context.invocation_metadata())["authorization"].removeprefix("Bearer ")
        if token not in tokens:
            return fail(grpc.StatusCode.UNAUTHENTICATED, "the token has ended")(request, context)
        answers: dict[str, Answer] = {
            "GetJobRequest": lambda *_: GetJobResponse(job=Job(job_id="j")),
            "WatchJobRequest": watch,
        }
        return routed(**answers)(request, context)

    return answer


class TestCommands:
    def test_misuse_is_named_by_flag_or_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the command."""
        for flags, said in (
            (["--ca-file", "/nowhere"], "--ca-file: '/nowhere' cannot be read: No such file or directory"),
            (["--cert-file", "/x"], "--cert-file: needs key_file"),
            (["--token-file", "/dev/null"], "--token-file: '/dev/null' is empty"),
        ):
            for command in (["job", "watch", "j"], ["audit", "list"], ["log", "tail"], ["emit", "x"]):
                done = run_main(*command, *flags)
                assert (done.returncode, done.stderr) == (ExitCode.MISUSE, f"emitd: {said}\n")
        monkeypatch.setenv("EMITD_TOKEN", "top secret")
        done = run_main("job", "list")
        assert done.returncode == ExitCode.MISUSE
        assert done.stderr.startswith("emitd: EMITD_TOKEN: must be at most")
        assert "top secret" not in done.stderr + run_main("job", "list", "--help").stdout

    def test_the_token_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where many records are sent."""
        monkeypatch.setenv("EMITD_TOKEN", "secret")
        with fake_log_service(known_by("secret", answer=job_answers)) as service:
            assert run_main("job", "get", "j", "--address", service.address).returncode == ExitCode.GOOD

    @pytest.mark.parametrize(
        ("refusal", "expected"), [(UNAUTHENTICATED, ExitCode.CANNOT_TELL), (DENIED, ExitCode.BAD)]
    )
    def test_whose_record_it_is(self, refusal: Answer, expected: int, tmp_path: Path) -> None:
        """Only a right that is missing is a verdict on the record."""
        lines = tmp_path / "lines"
        lines.write_text("a line\n")
        with fake_log_service(refusal) as service:
            for command in (["emit", "x"], ["emit", "--file", str(lines), "--retry-seconds", "0"]):
                assert run_main(*command, "--address", service.address).returncode == expected
