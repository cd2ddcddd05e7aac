"""The examples of docs/security.md: each configuration is served by a real process, to those whom the page names."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd import v1
from emitd_server.access.grants import ROLES
from emitd_server.access.tokens import new_token
from emitd_server.config.loader import load_config
from emitd_server.settings import GrantSettings, LimitSettings, ListenEntry, Role, TlsSettings
from support.access.authority import Authority
from support.access.jwt_issuer import jwk, jwks, sign
from support.access.keys_server import serving_keys
from support.docs.console_page import example
from support.docs.page_reader import EMITD, ROOT, program
from support.processes.server_process import ServerProcess

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/security.md").read_text()
HANDLERS = """
handlers:
  console: {type: console}
  audit: {type: json_audit}
  jobs: {type: database_job}
"""
OK, DENIED, UNKNOWN = (
    grpc.StatusCode.OK,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
NOT_FOUND = grpc.StatusCode.NOT_FOUND
INFO, WARNING = v1.LEVEL_INFO, v1.LEVEL_WARNING
AUTHORITY = Authority()


def emitd(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "emitd_cli", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60)


def configuration(name: str, **replaced: str) -> str:
    """A configuration of the page, with free ports and the files of the folder."""
    text = example(PAGE, name)
    for old, new in (("/var/run/emitd-tls/", "pod/"), *replaced.items()):
        text = text.replace(old, new)
    return re.sub(r":5005\d", ":0", text) + HANDLERS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the certificates that the configurations name, and with the folder of the socket."""
    emitd(tmp_path, "tls", "dev", "certs")
    for name in ("tls", "pod", "run"):
        (tmp_path / name).mkdir()
    certificate, key = AUTHORITY.issue()
    for place, data in (
        ("tls/server.pem", certificate),
        ("tls/server.key", key),
        ("tls/ca.pem", AUTHORITY.pem),
        ("pod/tls.crt", certificate),
        ("pod/tls.key", key),
        ("pod/ca.crt", AUTHORITY.pem),
    ):
        (tmp_path / place).write_bytes(data)
        (tmp_path / place).chmod(0o600)
    return tmp_path


class Served:
    """A server of a configuration, and the addresses of its listeners."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.entries = [*load_config(folder / "emitd.yml", environ={}).server.listeners().values()]
        give_up_at = time.monotonic() + 10
        while len(lines := re.findall(r"emitd listening on (\S+)\n", server.stderr)) < len(self.entries):
            assert time.monotonic() < give_up_at, server.stderr
            time.sleep(0.02)
        self.addresses = [re.sub(r"^(0\.0\.0\.0|\[::\]):", "localhost:", line) for line in lines]

    def caller(
        self, listener: int = 0, *, token: str = "", name: str = "", dev: Path | None = None
    ) -> "Caller":
        """Someone who calls a listener with a token, the certificate for a name, or the files of `tls dev`."""
        if self.entries[listener].tls is None:
            return Caller(grpc.insecure_channel(self.addresses[listener]), token)
        if dev is not None:
            files = [(dev / each).read_bytes() for each in ("ca.pem", "client.key", "client.pem")]
        elif name:
            certificate, key = AUTHORITY.issue(name)
            files = [AUTHORITY.pem, key, certificate]
        else:
            files = [AUTHORITY.pem]
        credentials = grpc.ssl_channel_credentials(*files)
        return Caller(grpc.secure_channel(self.addresses[listener], credentials), token)


class Caller:
    """What one caller is answered."""

    def __init__(self, channel: grpc.Channel, token: str = "") -> None:
        self._log, self._audit = v1.LogServiceStub(channel), v1.AuditServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def sends(self, **record: Any) -> grpc.StatusCode:
        """How the service ends an Emit of a record."""
        request = v1.EmitRequest(record=v1.LogRecord(**{"level": INFO, "message": "x", **record}))
        return self._code(self._log.Emit, request)

    def audits(self, event_name: str, source: str = "", **more: Any) -> grpc.StatusCode:
        event = v1.AuditEvent(event_name=event_name, user_id="u", source_ip="192.0.2.7", details_json="{}")
        return self.sends(level=v1.LEVEL_AUDIT, source=source, audit=event, **more)

    def reports(self, job_id: str, job_type: str, source: str = "") -> grpc.StatusCode:
        job = v1.JobStatus(job_id=job_id, job_type=job_type, status=v1.JOB_STATE_RUNNING)
        return self.sends(level=v1.LEVEL_JOB_STATUS, source=source, job=job)

    def asks(self, method: str, request: Any) -> grpc.StatusCode:
        """How the service ends a question."""
        stub = self._log if hasattr(self._log, method) else self._audit
        return self._code(getattr(stub, method), request)

    def lines(self) -> Sequence[str]:
        """The messages of the log lines that the caller sees."""
        request = v1.ListLogsRequest(page_size=100)
        reply = self._log.ListLogs(request, timeout=10, metadata=self.metadata)
        return [line.record.message for line in reply.lines]

    def trail(self) -> Sequence[Mapping[str, Any]]:
        """The lines of the audit trail that the caller sees, oldest first."""
        request = v1.ListAuditEventsRequest(page_size=100)
        reply = self._audit.ListAuditEvents(request, timeout=10, metadata=self.metadata)
        return [json.loads(entry.line) for entry in reversed(reply.entries)]

    def asks_health(self) -> grpc.StatusCode:
        return self._code(self._health.Check, health_pb2.HealthCheckRequest())

    def _code(self, method: Any, request: Any) -> grpc.StatusCode:
        call = method.future(request, timeout=10, metadata=self.metadata)
        code: grpc.StatusCode = call.code()
        return code


JOBS, EVENTS = v1.ListJobsRequest(), v1.ListAuditEventsRequest()


@contextmanager
def serving(config: str, folder: Path) -> Iterator[Served]:
    with ServerProcess.start(config, folder) as server:
        yield Served(server, folder)
        server.terminate()
        assert server.wait() == 0
        assert "Traceback" not in server.stderr


def test_every_configuration_has_its_test() -> None:
    """And every test its configuration; the snippet of a pod is YAML."""
    tested = {"dev", "listeners", "tokens", "spiffe", "oidc", "kubernetes", "grants"}
    assert {*re.findall(r"<!-- example: (\S+) -->\n```yaml", PAGE)} == tested | {"volume"}
    assert len(re.findall(r"^```yaml", PAGE, re.MULTILINE)) == len(tested) + 1
    (volume,) = yaml.safe_load(example(PAGE, "volume"))["volumes"]
    (source,) = volume["projected"]["sources"]
    audience = yaml.safe_load(example(PAGE, "kubernetes"))["server"]["access"]["jwt"]["audience"]
    assert source["serviceAccountToken"]["audience"] == audience


def test_tls_in_a_minute(folder: Path) -> None:
    """The command prints the page's configuration, and its client may do what the roles say."""
    printed = emitd(folder, "tls", "dev", "more")
    shown = printed.stdout.replace(f"{folder}/more/", "certs/")
    assert yaml.safe_load(shown) == yaml.safe_load(example(PAGE, "dev"))
    assert example(PAGE, "dev").partition("  access:")[2] in printed.stdout
    (settings,) = re.findall(r"```sh\n(export EMITD_ADDRESS.*?)```", PAGE, re.DOTALL)
    assert settings in f"{printed.stderr.replace(f'{folder}/more/', 'certs/')}\n"
    with serving(configuration("dev"), folder) as served:
        client = served.caller(dev=folder / "certs")
        assert client.sends() is OK
        assert client.asks("ListJobs", JOBS) is client.asks("ListAuditEvents", EVENTS) is OK
        assert client.asks("RequestCancel", v1.RequestCancelRequest(job_id="x")) is NOT_FOUND


def test_every_listener_serves_in_its_way(folder: Path) -> None:
    """Loopback serves all, a socket its principal, TLS those with a certificate or a token, and one has only health."""
    token, _ = new_token(folder / "tokens.yml", "reports", (), None)
    config = configuration("listeners", **{"spiffe://prod.example/shop": "spiffe://test/shop"})
    with serving(config, folder) as served:
        assert served.caller(0).sends() is served.caller(0).asks("ListJobs", JOBS) is OK
        assert served.caller(1).sends() is served.caller(2, name="shop").sends() is OK
        assert served.caller(1).asks("ListJobs", JOBS) is DENIED
        assert served.caller(2, name="bank").sends() is DENIED
        assert served.caller(2).sends() is grpc.StatusCode.UNAVAILABLE
        assert served.caller(3, token=token).sends() is OK
        assert served.caller(3).sends() is served.caller(3).asks_health() is UNKNOWN
        assert served.caller(4).asks_health() is OK
        assert served.caller(4).sends() is grpc.StatusCode.UNIMPLEMENTED


def test_tokens_are_made_and_used(folder: Path) -> None:
    """By the page's own commands."""
    program(folder / "bin" / "emitd", EMITD.format(python=sys.executable))
    environ = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    commands = example(PAGE, "token_commands")
    done = subprocess.run(
        ["sh", "-ec", commands], cwd=folder, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^shop +writers ", done.stdout, re.MULTILINE)
    with serving(configuration("tokens"), folder) as served:
        shop, olga = (
            served.caller(token=(folder / f"{name}.token").read_text().strip()) for name in ("shop", "olga")
        )
        assert (shop.sends(), shop.asks("ListAuditEvents", EVENTS)) == (OK, DENIED)
        assert (olga.sends(), olga.asks("ListAuditEvents", EVENTS)) == (DENIED, OK)
        emitd(folder, "token", "revoke", "shop", "tokens.yml")
        give_up_at = time.monotonic() + 10
        while shop.sends() is not UNKNOWN:
            assert time.monotonic() < give_up_at
            time.sleep(0.1)
        changed = [line for line in olga.trail() if line["event_name"] == "emitd.access.changed"]
        assert changed[-1]["details"]["change"].startswith("server.access.tokens_file: removed shop (")


def test_spiffe_ids_have_grants(folder: Path) -> None:
    """One sends, another reads, and a third may do nothing."""
    names = {f"spiffe://prod.example/ns/{each}": "spiffe://test" for each in ("shop/sa", "ops/sa")}
    with serving(configuration("spiffe", **names), folder) as served:
        till, board, other = (served.caller(name=name) for name in ("till", "board", "other"))
        assert (till.sends(source="till"), till.sends(source="bank"), till.asks("ListJobs", JOBS)) == (
            OK,
            DENIED,
            DENIED,
        )
        assert (board.sends(source="till"), board.asks("ListJobs", JOBS)) == (DENIED, OK)
        assert (other.sends(source="till"), other.asks("ListJobs", JOBS)) == (DENIED, DENIED)


@pytest.mark.parametrize("name", ["oidc", "kubernetes"])
def test_tokens_of_an_issuer(folder: Path, name: str) -> None:
    """With keys that the service fetches by itself, from a server that the page's `ca_file` would vouch for."""
    settings = yaml.safe_load(example(PAGE, name))["server"]["access"]["jwt"]
    with ExitStack() as stack:
        keys = stack.enter_context(serving_keys(folder))
        keys.body = jwks(jwk("ES256", "k1"))
        (folder / "pod" / "token").write_text("token-of-the-pod")
        account = "/var/run/secrets/kubernetes.io/serviceaccount/"
        replaced = {
            settings["keys"]: keys.url,
            f"{account}ca.crt": str(keys.ca_file),
            f"{account}token": "pod/token",
        }
        if name == "oidc":
            replaced[settings["keys"]] = f"{keys.url}\n      ca_file: {keys.ca_file}"
        served = stack.enter_context(serving(configuration(name, **replaced), folder))

        def holder(**claims: Any) -> Caller:
            every = {"iss": settings["issuer"], "aud": settings["audience"], **claims}
            return served.caller(token=sign(**every))

        if name == "oidc":
            assert holder(sub="olga", groups=["auditors"]).asks("ListAuditEvents", EVENTS) is OK
            developer = holder(sub="dan", groups=["x", "developers"])
            assert developer.asks("ListJobs", JOBS) is OK
            assert developer.asks("ListAuditEvents", EVENTS) is developer.sends() is DENIED
            assert holder(sub="dan").asks("ListJobs", JOBS) is DENIED
            assert keys.requests[0][1] is None
        else:
            till = holder(sub="system:serviceaccount:shop:till")
            assert till.sends(source="till") is OK
            assert till.sends(source="other") is till.asks("ListJobs", JOBS) is DENIED
            board = holder(sub="system:serviceaccount:ops:board")
            assert board.asks("RequestCancel", v1.RequestCancelRequest(job_id="x")) is NOT_FOUND
            assert served.caller(1).asks_health() is OK
            assert keys.requests[0][1] == "Bearer token-of-the-pod"
        assert holder(sub="olga", aud="other").asks("ListJobs", JOBS) is UNKNOWN


def test_grants_decide(folder: Path) -> None:
    """What the page says of the principals of its example: sending, reading, owning, passing on, and the trail."""
    people = {"shop": (), "dan": ("developers",), "oncall": (), "olga": (), "edge": ()}
    tokens = {
        name: new_token(folder / "tokens.yml", name, groups, None)[0] for name, groups in people.items()
    }
    with serving(configuration("grants"), folder) as served:
        shop, dan, oncall, olga, edge = (served.caller(token=token) for token in tokens.values())
        assert shop.sends(source="shop", message="quiet") is OK
        assert shop.sends(source="shop.web", level=WARNING, message="loud") is OK
        assert shop.sends(source="shopping") is shop.sends(source="emitd") is DENIED
        assert shop.audits("order.create", "shop") is shop.audits("user.login.failure", "shop") is OK
        assert shop.audits("payment.refund", "shop") is shop.audits("emitd.access.read", "shop") is DENIED
        assert shop.audits("order.create", "shop", submitted_by="olga") is DENIED
        assert shop.reports("i1", "import", "shop") is OK
        assert shop.reports("b1", "backup", "shop") is DENIED

        assert edge.reports("i1", "import", "shop") is DENIED  # shop owns it
        assert edge.audits("order.create", "bank", submitted_by="till") is OK
        assert edge.audits("emitd.access.read", "emitd", submitted_by="other-emitd") is OK
        assert edge.reports("b2", "backup", "bank") is OK

        assert dan.lines() == ["loud"]
        assert oncall.lines() == ["quiet", "loud"]
        question = v1.GetJobRequest(job_id="b2")
        assert (dan.asks("GetJob", question), oncall.asks("GetJob", question)) == (NOT_FOUND, OK)
        assert dan.asks("GetJob", v1.GetJobRequest(job_id="i1")) is OK
        cancel = v1.RequestCancelRequest(job_id="i1", reason="wrong file")
        assert (dan.asks("RequestCancel", cancel), oncall.asks("RequestCancel", cancel)) == (DENIED, OK)
        assert dan.asks_health() is OK

        give_up_at = time.monotonic() + 10
        trail: Sequence[Mapping[str, Any]] = ()
        while "emitd.job.cancel_requested" not in {line["event_name"] for line in trail}:
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
            trail = olga.trail()
    sent = {(line.get("source"), line["event_name"], line.get("submitted_by")) for line in trail}
    assert ("shop", "order.create", "shop") in sent
    assert ("bank", "order.create", "till") in sent
    addresses = {line.get("peer_address") for line in trail if line.get("submitted_by")}
    assert addresses == {"127.0.0.1"}
    own = {line["event_name"]: line for line in trail if "submitted_by" not in line}
    assert own.keys() == {"emitd.access.read", "emitd.job.cancel_requested"}
    cancelled = own["emitd.job.cancel_requested"]
    assert (cancelled["source"], cancelled["user_id"]) == ("emitd", "emitd")
    assert cancelled["details"] == {"principal": "oncall", "job_id": "i1", "reason": "wrong file"}
    lines = map(json.loads, (folder / "logs" / "audit.json.log").read_text().splitlines())
    refused = {
        line["details"]["principal"]: line["details"]
        for line in lines
        if line["event_name"] == "emitd.access.refused"
    }
    assert refused["dan"] == {
        "principal": "dan",
        "address": "127.0.0.1",
        "calls": {"emitd.v1.LogService/RequestCancel PERMISSION_DENIED": 1},
    }


def test_a_grant_is_explained(folder: Path) -> None:
    """Each command of the page prints what the page says."""
    (folder / "emitd.yml").write_text(configuration("grants"))
    typed = re.findall(r"^\$ emitd (.*)\n([^$]*)", example(PAGE, "explain"), re.MULTILINE)
    assert len(typed) == 3
    for command, shown in typed:
        line = [sys.executable, "-m", "emitd_cli", *command.split()]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.returncode) == (shown, int(shown.startswith("denied")))


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def keys_of(text: str) -> set[str]:
    """The keys in the first cells of tables."""
    return set(re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE))


def test_the_tables_have_every_key() -> None:
    """Of a listener, of its TLS files, and of a grant; the limits are those that there are."""
    expected = {*ListenEntry.__struct_fields__, *(f"tls.{key}" for key in TlsSettings.__struct_fields__)}
    assert keys_of(section("Listeners")) == expected - {"tls"}
    assert keys_of(section("What each may do")) == {*GrantSettings.__struct_fields__}
    assert keys_of(section("How much of everything")) < {*LimitSettings.__struct_fields__}


def test_the_table_of_roles_is_that_of_the_service() -> None:
    """Each method, and each role that has it."""
    rows = re.findall(r"^\| (`\w+Service/.*?`) \|(.*)\|$", section("What each may do"), re.MULTILINE)
    found = {}
    for methods, cells in rows:
        roles = {role for role, cell in zip(Role, by_role(cells), strict=True) if cell}
        first, *others = re.findall(r"`(.*?)`", methods)
        service = first.partition("/")[0]
        for method in (first.partition("/")[2], *others):
            found[f"emitd.v1.{service}/{method}"] = roles
    assert found == ROLES


def by_role(cells: str) -> Sequence[bool]:
    """The cells of a row in the order of `Role`, from that of the page."""
    shown = dict(
        zip(("writer", "watcher", "operator", "auditor"), map(str.strip, cells.split("|")), strict=True)
    )
    return [shown[role.value] == "yes" for role in Role]
