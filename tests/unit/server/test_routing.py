"""Which handler gets a record: by level and by source; and what is redacted before any of them sees it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd.v1 import EmitRequest, record_pb2
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.outcome import Committed, Refused
from emitd_handlers.scope import ANYONE
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import InMemoryHandler, make_record
from emitd_handlers.text.patterns import matches_any
from emitd_server.access.trail import AccessTrail
from emitd_server.dispatch import dispatcher
from emitd_server.dispatch.redactor import Redactor
from emitd_server.errors import NoHandler
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.service import LoggingService
from emitd_server.settings import ServerSettings


def handler(name: str, **settings: Any) -> InMemoryHandler:
    """Return a handler with these settings."""
    return InMemoryHandler(HandlerSettings(**settings), name=name)


def messages(kept: InMemoryHandler) -> list[str]:
    """Return the messages that a handler got."""
    return [record.message for record in kept.records]


async def test_a_handler_gets_the_sources_of_its_entry() -> None:
    """`sources` lets in, `exclude_sources` keeps out, and what nobody takes is refused with the source's name."""
    auth, rest = (
        handler("auth", sources=("auth.*", "login")),
        handler("rest", exclude_sources=("auth.*", "noisy")),
    )
    async with LoggingService([auth, rest]) as service:
        sent = ["auth.web", "login", "shop", "noisy", "auth", ""]
        records = [make_record(source=source, message=source) for source in sent]
        outcomes = await service.dispatch(records)
        await service.drain()
        assert messages(auth) == ["auth.web", "login"]
        assert messages(rest) == ["login", "shop", "auth", ""]
        assert [type(outcome) for outcome in outcomes] == [Committed] * 3 + [Refused] + [Committed] * 2
        refused = outcomes[3]
        assert isinstance(refused, Refused)
        assert isinstance(refused.error, NoHandler)
        assert str(refused.error) == "no handler takes records of level INFO from source 'noisy'"
        assert [name for name, _ in service.route(records[1]).deliveries] == ["auth", "rest"]
        assert [name for name, _ in service.route(records[0]).deliveries] == ["auth"]


async def test_one_refusal_keeps_a_record_from_the_queued_ones_only() -> None:
    """A record that a committed handler refused goes to no queued one, also if sources choose the handlers."""
    first = handler("first", delivery=Delivery.COMMITTED, sources=("a",))
    second = handler("second", exclude_sources=("b",))
    first.fail_next(1, HandlerUnavailable("not now"))
    async with LoggingService([first, second]) as service:
        outcomes = await service.dispatch([make_record(source=each, message=each) for each in ("a", "c")])
        await service.drain()
        assert [type(outcome) for outcome in outcomes] == [Refused, Committed]
        assert messages(second) == ["c"]


async def test_routes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that senders choose do not fill the memory."""
    monkeypatch.setattr(dispatcher, "MAX_ROUTES", 10)
    kept = handler("kept", sources=("*",))
    async with LoggingService([kept]) as service:
        for number in range(50):
            await service.dispatch([make_record(source=str(number))])
        assert service._route.cache_info().currsize <= 10  # type: ignore[attr-defined]
        await service.drain()
        assert len(kept.records) == 50


class Odd(InMemoryHandler):
    """Chooses by a rule of its own."""

    def can_handle_source(self, source: str) -> bool:
        return len(source) % 2 == 1


async def test_a_handler_may_choose_sources_itself() -> None:
    """A class that overrides `can_handle_source` is asked."""
    odd = Odd(name="odd")
    async with LoggingService([odd, handler("all")]) as service:
        await service.dispatch([make_record(source=each, message=each) for each in ("a", "bb", "ccc")])
        await service.drain()
        assert messages(odd) == ["a", "ccc"]


@given(st.lists(st.sampled_from(["a", "b", "*", "é", ".", "\n"]), max_size=8), st.text("abé.\n", max_size=8))
def test_patterns_match_as_an_obvious_matcher_does(pattern: list[str], text: str) -> None:
    """`*` stands for any text, all else for itself."""

    def slow(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(slow(pattern[1:], text[start:]) for start in range(len(text) + 1))
        return text[:1] == pattern[0] and slow(pattern[1:], text[1:])

    assert matches_any(["".join(pattern)], text) == slow("".join(pattern), text)


class TestRedactor:
    """`server.redact`."""

    @pytest.mark.parametrize(
        ("patterns", "text", "redacted"),
        [
            (["*password*"], '{"db_Password":"x","n":1.50e3}', '{"db_Password":"[redacted]","n":1.50e3}'),
            (["password"], '{"a":[{"password":{"deep":1}},2]}', '{"a":[{"password":"[redacted]"},2]}'),
            (["details.card"], '{"card":1,"x":{"card":2}}', '{"card":"[redacted]","x":{"card":2}}'),
            (["details.x.card"], '{"card":1,"x":[{"card":2}]}', '{"card":1,"x":[{"card":"[redacted]"}]}'),
            (["attributes.card"], '{"card":1}', None),
            (
                ["pass"],
                '{"p\\u0061ss":1,"n":123456789012345678901}',
                '{"pass":"[redacted]","n":123456789012345678901}',
            ),
            (["none"], '{"a": 1}', None),
        ],
    )
    def test_values_of_matching_keys_are_replaced(
        self, patterns: list[str], text: str, redacted: str | None
    ) -> None:
        """At any depth, in upper or lower case; numbers stay as they are spelt, and untouched text is untouched."""
        redactor = Redactor(patterns)
        assert redactor.redact("details", text) == (redacted or text)
        assert redactor.count == (redacted is not None)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
            ),
            max_leaves=20,
        )
    )
    def test_only_the_values_are_replaced(self, value: object) -> None:
        """The rest of any object is equal to what it was."""

        def slow(value: object) -> object:
            if isinstance(value, dict):
                return {key: "[redacted]" if key == "b" else slow(inner) for key, inner in value.items()}
            return [slow(inner) for inner in value] if isinstance(value, list) else value

        text = json.dumps({"a": value, "b": value})
        assert json.loads(Redactor(["B"]).redact("details", text)) == slow({"a": value, "b": value})


async def test_every_door_redacts_before_handlers_and_before_the_fingerprint() -> None:
    """Attributes and details of all three kinds, over gRPC's servicer and in process; a retry is still one."""
    kept = InMemoryHandler(name="kept")
    settings = ServerSettings(redact=("*secret*",))
    async with LoggingService([kept], settings=settings) as service:
        async with service.client(source="s") as client:
            client.info("line", my_secret="x", n=1)
            await client.audit("e", user_id="u", source_ip="unknown", details={"secret": {"deep": "x"}})
            async with client.job("j", job_type="t") as job:
                job.details({"a": [{"Secret": "x"}]})
            await client.flush()
        for _ in range(2):
            record = record_pb2.LogRecord(
                level=record_pb2.LEVEL_INFO, record_id="r", message="wire", attributes_json='{"secret":"x"}'
            )
            await LogServicer(service, AccessTrail(service.own_events)).emit(
                EmitRequest(record=record).SerializeToString(), ANYONE
            )
        await service.drain()
        texts = [record.attributes_json for record in kept.records]
        texts += [record.payload.details_json for record in kept.records if record.payload is not None]
        assert [record.message for record in kept.records].count("wire") == 1
        assert sum('"[redacted]"' in text for text in texts) == 4
        assert not any('"x"' in text for text in texts)
        assert service.stats()[""]["redacted"] == 5  # the retry was read too
