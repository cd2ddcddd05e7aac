"""`emitd access explain`: what decides, and what is missing."""

import json
from pathlib import Path

import pytest

from emitd_server.access.grants import ROLES
from support.processes.run_main import run_main

GRANTS = """
server:
  access:
    grants:
      - {to: [shop], role: writer, levels: [INFO], sources: ["shop*"]}
      - {to: ["group:web"], role: writer, levels: [AUDIT], event_names: ["user.*"]}
      - {to: [eve], role: auditor, event_names: ["emitd.*", "user.*"]}
      - {to: [eve, shop], role: watcher, job_types: [import]}
      - {to: ["group:web", shop], role: writer}
handlers: {a: {type: discard}}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "c.yml"
    file.write_text(GRANTS)
    return str(file)


@pytest.mark.parametrize(
    ("call", "places"),
    [
        ("shop Emit", [0, 4]),
        ("shop LogService/EmitBatch", [0, 4]),
        ("nobody emitd.v1.LogService/Emit --group web", [1, 4]),
        ("shop Emit --level info --source shop.till", [0, 4]),
        ("shop Emit --level INFO --source bank", [4]),
        ("x Emit --group us --group web --event-name user.login", [1, 4]),
        ("x Emit --group web --event-name admin.login --level AUDIT", [4]),
        ("x Emit --group web --job-type import", [4]),
        ("eve ListAuditEvents", [2]),
        ("eve TailAuditEvents --event-name emitd.access.read --source emitd", [2]),
        ("eve GetJob --job-type import", [3]),
        ("shop TailLogs --level DEBUG", [3]),
    ],
)
def test_the_grants_that_decide_are_named_with_their_places(
    config: str, call: str, places: list[int]
) -> None:
    """Each of those that would be enough alone, with its text; and 0."""
    done = run_main("access", "explain", *call.split(), "--config", config)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(" allows it: ")[0] for line in lines] == [
        f"server.access.grants[{at}]" for at in places
    ]
    texts = [json.loads(line.partition(" allows it: ")[2]) for line in lines]
    if places[0] == 0:
        assert texts[0] == {
            "to": ["shop"], "role": "writer", "levels": ["INFO"], "sources": ["shop*"], "event_names": ["*"],
            "job_types": ["*"], "relay": False,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("nobody Emit", "'nobody' may not call emitd.v1.LogService/Emit: no grant gives it the role writer"),
        ("web Emit", "'web' may not call emitd.v1.LogService/Emit: no grant gives it the role writer"),
        ("eve RequestCancel", "no grant gives it the role operator"),
        ("eve GetJob --job-type export --source s", "job.job_type: no grant covers 'export' from 's'"),
        ("eve ListAuditEvents --event-name admin.login", "audit.event_name: no grant covers 'admin.login' from ''"),
        ("shop Emit --event-name emitd.x", "audit.event_name: names that begin with 'emitd.' are the service's own"),
        ("shop Emit --level INFO --source emitd", "source: 'emitd' is the service's own"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(config: str, call: str, reason: str) -> None:
    """The role or the pattern; and 1."""
    done = run_main("access", "explain", *call.split(), "--config", config)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("denied: ")
    assert done.stdout.endswith(f"{reason}\n")


def test_as_json(config: str) -> None:
    """The verdict, the grants by their places, and the reason."""
    allowed = run_main("access", "explain", "eve", "GetJob", "--config", config, "--json")
    found = json.loads(allowed.stdout)
    assert (allowed.returncode, found["allowed"], found["reason"]) == (0, True, "")
    assert found["method"] == "emitd.v1.LogService/GetJob"
    assert found["grants"]["server.access.grants[3]"]["job_types"] == ["import"]
    denied = run_main("access", "explain", "nobody", "GetJob", "--config", config, "--json")
    found = json.loads(denied.stdout)
    assert (denied.returncode, found["allowed"], found["grants"]) == (1, False, {})
    assert found["reason"].endswith("no grant gives it the role operator or watcher")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("shop", "emit"), "METHOD: 'emit' is not one of Emit, EmitBatch, GetJob,"),
        (("shop", "Check"), "METHOD: 'Check' is not one of Emit,"),
        (("shop", ""), "METHOD: '' is not one of Emit,"),
        (("shop", "Emit", "--source", "s"), "--level: '' is not one of DEBUG, INFO,"),
        (("shop", "Emit", "--level", "loud"), "--level: 'LOUD' is not one of DEBUG, INFO,"),
        (("", "Emit"), "PRINCIPAL, --group: the name is empty"),
        (("group:web", "Emit"), "PRINCIPAL, --group: the name begins with 'group:'"),
        (("shop", "Emit", "--group", "a\n"), "PRINCIPAL, --group: a group's name has characters"),
        (("shop",), "METHOD"),
    ],
)
def test_what_cannot_be_asked_is_misuse(config: str, call: tuple[str, ...], said: str) -> None:
    """An unknown method with those that are known; and 2."""
    done = run_main("access", "explain", *call, "--config", config)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_every_method_with_a_role_can_be_asked_for(config: str) -> None:
    """By each of its names."""
    for method in ROLES:
        for name in (method, method.removeprefix("emitd.v1."), method.partition("/")[2]):
            assert run_main("access", "explain", "x", name, "--config", config).returncode == 1


def test_a_bad_configuration_is_3(tmp_path: Path) -> None:
    """With every problem; also one that is not there."""
    file = tmp_path / "c.yml"
    file.write_text(
        "server: {access: {grants: [{to: [a], role: boss}, {role: writer}]}}\nhandlers: {a: {type: discard}}"
    )
    done = run_main("access", "explain", "a", "Emit", "--config", str(file))
    assert (done.returncode, done.stdout) == (3, "")
    assert "server.access.grants[0].role: found 'boss'; expected one of writer," in done.stderr
    assert "server.access.grants[1].to: is missing" in done.stderr
    done = run_main("access", "explain", "a", "Emit", "--config", str(tmp_path / "none.yml"))
    assert (done.returncode, done.stdout) == (3, "")
