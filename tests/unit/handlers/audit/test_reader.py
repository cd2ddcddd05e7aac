"""Reading a log while it is written: lists, tails, proofs, and what is wrong with the files."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from emitd_handlers.audit.format.line import decode_line, received_at
from emitd_handlers.audit.read import reader as audit_reader
from emitd_handlers.audit.read import scan as audit_scan
from emitd_handlers.audit.read.reader import AuditReader
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.source import AuditBatch, AuditEntry, AuditFilter, AuditQuery, AuditSource
from emitd_handlers.errors import AuditDamaged, AuditNotFound, AuditQueryInvalid, HandlerUnavailable
from emitd_handlers.tlog.merkle import EMPTY_ROOT, leaf_hash, node_hash, root_of_inclusion
from support.audit.log_reader import verify_consistency
from support.audit.sealed_log import LOG_ID, TIME, make_line
from support.audit.written_log import WrittenLog, WrittenLogHandler, written_log

SIZE = 60


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[WrittenLog]:
    """A log of some lines, all of them signed."""
    async with written_log(tmp_path / "audit.json.log", SIZE) as log:
        yield log


def line_with(number: int, **members: object) -> bytes:
    """A line made by another encoder of JSON, with other members."""
    line = json.loads(make_line(number)) | members
    return json.dumps(line).encode()


async def list_all(reader: AuditReader, **query: object) -> list[AuditEntry]:
    """Page through a query to its end; small pages unless it says otherwise."""
    entries: list[AuditEntry] = []
    token = ""
    for _ in range(10_000):
        page = await reader.list(AuditQuery(**{"page_size": 7, **query}, page_token=token))  # type: ignore[arg-type]
        entries += page.entries
        token = page.next_page_token
        if not token:
            return entries
    raise AssertionError("the pages do not end")


def indexes(entries: list[AuditEntry]) -> list[int]:
    return [entry.leaf_index for entry in entries]


async def batch_of(tail: "aclosing[object] | object") -> AuditBatch:
    async with asyncio.timeout(20):
        batch = await anext(tail)  # type: ignore[call-overload]
    assert isinstance(batch, AuditBatch)
    return batch


def edit(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes that stand in a file once."""
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


async def test_it_is_an_audit_source(log: WrittenLog) -> None:
    """As is a handler that hands on what it is asked."""
    assert isinstance(log.reader, AuditSource)
    assert isinstance(WrittenLogHandler(log), AuditSource)


async def test_each_line_is_listed_as_it_is(log: WrittenLog) -> None:
    """With its number, its exact bytes, its leaf, its time and what it says."""
    entries = await list_all(log.reader)
    assert indexes(entries) == list(range(SIZE))
    assert [entry.line for entry in entries] == log.log.lines
    for entry in entries:
        assert entry.leaf_hash == leaf_hash(entry.line)
        assert entry.parsed == decode_line(entry.line)
        assert entry.received_unix_nano == TIME + entry.leaf_index * 1_000_000


@pytest.mark.parametrize("page_size", [1, 7, SIZE, 1000])
async def test_pages_from_the_end(log: WrittenLog, page_size: int) -> None:
    """Newest first is the same list backward."""
    entries = await list_all(log.reader, newest_first=True, page_size=page_size)
    assert indexes(entries) == list(range(SIZE))[::-1]


async def test_an_empty_log(tmp_path: Path) -> None:
    """It has one page, without events."""
    async with written_log(tmp_path / "audit.json.log") as log:
        assert await list_all(log.reader) == await list_all(log.reader, newest_first=True) == []


@pytest.mark.parametrize("has_index", [True, False])
async def test_lists_are_as_if_all_was_looked_at(tmp_path: Path, has_index: bool) -> None:
    """Any range of time with any filter gives, either way, what a look at each line gives."""
    draw = random.Random(5)
    async with written_log(tmp_path / "audit.json.log") as log:
        times = sorted(draw.randrange(40) for _ in range(120))
        log.commit([make_line(number, time=TIME + time) for number, time in enumerate(times)])
        if not has_index:
            log.log.paths.index.unlink()
        for _ in range(150):
            after, before = draw.randrange(-1, 42), draw.randrange(-1, 42)
            wanted = AuditFilter(
                event_name_prefix=draw.choice(["", "", "user.", "user.login.f", "playlist.create", "x"]),
                user_id=draw.choice(["", "", "user-3", "user-"]),
                source_ip=draw.choice(["", "", "192.0.2.5"]),
            )
            is_backward = draw.random() < 0.5
            expected = [
                number
                for number, time in enumerate(times)
                if (after < 0 or time >= after) and (before < 0 or time < before)
                if wanted.matches(decode_line(log.log.lines[number]))
            ]
            entries = await list_all(
                log.reader,
                filter=wanted,
                received_after_unix_nano=TIME + after if after >= 0 else 0,
                received_before_unix_nano=TIME + before if before >= 0 else 0,
                newest_first=is_backward,
            )
            assert indexes(entries) == (expected[::-1] if is_backward else expected)


@pytest.mark.parametrize(
    "value",
    ["Plain", 'quo"ted', "back\\slash", "日本語", "日本-u1", "a/b<c>&d", "tab\there", "x" * 256, "🎉", " "],
)
async def test_a_filter_finds_any_text_whatever_encoder_wrote_it(tmp_path: Path, value: str) -> None:
    """As our encoder writes it, and as one does that escapes all but ASCII."""
    async with written_log(tmp_path / "audit.json.log") as log:
        escaped = [line_with(0, user_id=value), line_with(1, event_name=value), line_with(2, event_id=value)]
        verbatim = [json.dumps(json.loads(line), ensure_ascii=False).encode() for line in escaped]
        log.commit([*escaped, make_line(3), *verbatim])
        assert indexes(await list_all(log.reader, filter=AuditFilter(user_id=value))) == [0, 4]
        assert indexes(await list_all(log.reader, filter=AuditFilter(event_name_prefix=value))) == [1, 5]
        assert indexes(await list_all(log.reader, filter=AuditFilter(event_name_prefix=value[:1]))) == [1, 5]
        assert indexes(await list_all(log.reader, filter=AuditFilter(event_id=value))) == [2, 6]
        found = await log.reader.find(value)
        assert found is not None
        assert found.leaf_index == 6


async def test_text_elsewhere_in_a_line_is_no_match(tmp_path: Path) -> None:
    """What stands in the details does not make a line another user's."""
    async with written_log(tmp_path / "audit.json.log") as log:
        log.commit([line_with(0, details={"user_id": "mallory", "x": '"user_id":"mallory"'})])
        assert await list_all(log.reader, filter=AuditFilter(user_id="mallory")) == []
        assert await log.reader.find("mallory") is None


async def test_an_address_is_the_same_in_any_spelling(tmp_path: Path) -> None:
    """The filter compares addresses, not their texts; `unknown` is a word."""
    mapped = ["::ffff:192.0.2.1", "0:0:0:0:0:FFFF:c000:0201", "::FFFF:C000:202"]
    old = "::1%of an earlier version"
    addresses = [
        "2001:db8::1",
        "2001:0DB8:0:0::1",
        "192.0.2.1",
        "unknown",
        "fe80::1%a",
        "fe80::1%b",
        *mapped,
        old,
    ]
    async with written_log(tmp_path / "audit.json.log") as log:
        log.commit([line_with(number, source_ip=address) for number, address in enumerate(addresses)])
        for address, found in {
            "2001:DB8::0:1": [0, 1],
            "192.0.2.1": [2, 6, 7],
            "::ffff:c000:201": [2, 6, 7],
            "192.0.2.2": [8],
            "unknown": [3],
            "FE80::0001%b": [5],
            "fe80::1": [],
            "::1": [],
            old: [9],
        }.items():
            for newest_first in (False, True):
                query = {"filter": AuditFilter(source_ip=address), "newest_first": newest_first}
                assert sorted(indexes(await list_all(log.reader, **query))) == found


async def test_the_last_hour_is_not_answered_by_reading_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the log is, little more of it is read than what lies in the range; without an index as well."""
    async with written_log(tmp_path / "audit.json.log") as log:
        padding = "x" * 4000
        log.commit([line_with(number, details={"p": padding}) for number in range(6000)])
        size = log.committed[1]
        assert size > 24_000_000
        read: list[int] = []
        original = AuditTrail.read_lines

        def read_lines(self: AuditTrail, size: int, offset: int) -> bytes:
            data = original(self, size, offset)
            read.append(len(data))
            return data

        monkeypatch.setattr(AuditTrail, "read_lines", read_lines)
        for _ in range(2):
            for newest_first in (False, True):
                read.clear()
                entries = await list_all(
                    log.reader,
                    received_after_unix_nano=TIME + 5900 * 1_000_000,
                    newest_first=newest_first,
                    page_size=1000,
                )
                assert sorted(indexes(entries)) == list(range(5900, 6000))
                assert sum(read) < 6_000_000
            log.log.paths.index.unlink(missing_ok=True)


async def test_a_page_ends_early_at_its_size(tmp_path: Path) -> None:
    """At 2 MiB, of which the line takes two parts: as it is, and as a record. Nothing is lost by that."""
    async with written_log(tmp_path / "audit.json.log") as log:
        log.commit([line_with(number, details={"p": "x" * 60_000}) for number in range(40)])
        page = await log.reader.list(AuditQuery(page_size=1000))
        assert 15 <= len(page.entries) <= 18
        assert sum(2 * len(entry.line) for entry in page.entries) <= 2 * 1024 * 1024
        assert indexes(await list_all(log.reader, page_size=1000)) == list(range(40))
        assert indexes(await list_all(log.reader, page_size=1000, newest_first=True)) == list(range(40))[::-1]


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_page_ends_early_when_much_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest_first: bool
) -> None:
    """It may then be empty and yet have a next one; all pages together are complete."""
    monkeypatch.setattr(audit_scan, "NEEDLE_BLOCK_BYTES", 4000)
    async with written_log(tmp_path / "audit.json.log") as log:
        log.commit([make_line(number, user="rare" if number == 70 else "") for number in range(140)])
        query = {"filter": AuditFilter(user_id="rare"), "max_scan_bytes": 1, "newest_first": newest_first}
        page = await log.reader.list(AuditQuery(**query))  # type: ignore[arg-type]
        assert page.entries == []
        assert page.next_page_token
        assert indexes(await list_all(log.reader, **query)) == [70]


async def test_pages_are_stable_while_lines_come(log: WrittenLog) -> None:
    """Newest first, lines that come between two pages are neither shown nor repeat others; oldest first they follow."""
    seen: dict[bool, list[int]] = {False: [], True: []}
    tokens = {False: "", True: ""}
    while tokens[True] or not seen[True]:
        for newest_first in (True, False):
            query = AuditQuery(page_size=9, newest_first=newest_first, page_token=tokens[newest_first])
            page = await log.reader.list(query)
            seen[newest_first] += [entry.leaf_index for entry in page.entries]
            tokens[newest_first] = page.next_page_token
        log.grow(2)
    assert seen[True] == list(range(SIZE))[::-1]
    assert seen[False] == list(range(len(seen[False])))


async def test_a_token_is_good_for_its_own_query_only(log: WrittenLog, tmp_path: Path) -> None:
    """Other filters, another direction, another log and made-up tokens are refused by the field's name."""
    query = AuditQuery(page_size=5)
    token = (await log.reader.list(query)).next_page_token
    assert token
    async with written_log(tmp_path / "other.log", SIZE, log_id="emitd.test/other") as other:
        for reader, bad in (
            (log.reader, AuditQuery(filter=AuditFilter(user_id="u"), page_token=token)),
            (log.reader, AuditQuery(received_after_unix_nano=1, page_token=token)),
            (log.reader, AuditQuery(received_before_unix_nano=1, page_token=token)),
            (log.reader, AuditQuery(newest_first=True, page_token=token)),
            (other.reader, AuditQuery(page_token=token)),
            (log.reader, AuditQuery(page_token="nonsense")),
            (log.reader, AuditQuery(page_token="日本")),
        ):
            with pytest.raises(AuditQueryInvalid) as caught:
                await reader.list(bad)
            assert caught.value.field == "page_token"
    # The page's size may change.
    assert (await log.reader.list(AuditQuery(page_size=3, page_token=token))).entries[0].leaf_index == 5


async def test_only_what_is_committed_is_shown(log: WrittenLog) -> None:
    """Lines that are written but not synced are in no list, no proof and no tail, until they are."""
    log.append([make_line(SIZE), make_line(SIZE + 1)])
    assert indexes(await list_all(log.reader)) == list(range(SIZE))
    assert await log.reader.find(f"event-{SIZE:06}") is None
    with pytest.raises(AuditNotFound):
        await log.reader.inclusion_proof(SIZE)
    async with aclosing(log.reader.tail(AuditFilter(), idle_seconds=0.02)) as tail:
        assert [await batch_of(tail) for _ in range(3)] == [AuditBatch((), SIZE)] * 3
        log.commit()
        assert indexes(list((await batch_of(tail)).entries)) == [SIZE, SIZE + 1]
    assert await log.reader.find(f"event-{SIZE:06}") is not None


async def test_an_event_is_found_by_its_id(log: WrittenLog) -> None:
    """The newest where there are several; None where there is none, and for no id at all."""
    for number in (0, 31, SIZE - 1):
        entry = await log.reader.find(f"event-{number:06}")
        assert entry is not None
        assert (entry.leaf_index, entry.line) == (number, log.log.lines[number])
    log.commit([make_line(31)])
    again = await log.reader.find("event-000031")
    assert again is not None
    assert again.leaf_index == SIZE
    assert await log.reader.find("event-00003") is None
    assert await log.reader.find("") is None


async def test_a_damaged_line_is_listed_and_matches_no_filter(log: WrittenLog) -> None:
    """It has its bytes and its leaf, but neither event nor time."""
    line = log.log.lines[30]
    edit(log.log.path, line, b"x" + line[1:])
    entry = (await list_all(log.reader))[30]
    assert (entry.line[:1], entry.parsed, entry.received_unix_nano) == (b"x", None, 0)
    assert entry.leaf_hash == leaf_hash(entry.line)
    assert 30 not in indexes(await list_all(log.reader, filter=AuditFilter(event_name_prefix="user.")))
    assert len(await list_all(log.reader, received_after_unix_nano=TIME, newest_first=True)) == SIZE


async def test_the_checkpoint_comes_with_the_keys(log: WrittenLog) -> None:
    """The note as it was signed, what it says, and all public keys, the newest last."""
    checkpoint = await log.reader.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.note, checkpoint.size) == (log.log.notes[-1], SIZE)
    log.log.rotate_key()
    log.grow(1)
    log.log.checkpoint()
    checkpoint = await log.reader.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.size, list(checkpoint.vkeys)) == (SIZE + 1, log.log.vkeys)
    assert len(checkpoint.vkeys) == 2


async def test_each_line_is_proved_at_each_size(log: WrittenLog) -> None:
    """The proof leads from the leaf to the root; the checkpoint comes where it is of that size."""
    roots = {size: await root_at(log, size) for size in (1, 2, 33, SIZE)}
    for size, root in roots.items():
        for index in range(size):
            proof = await log.reader.inclusion_proof(index, None if size == SIZE else size)
            assert (proof.leaf_index, proof.tree_size, proof.line) == (index, size, log.log.lines[index])
            assert proof.leaf_hash == leaf_hash(proof.line)
            assert root_of_inclusion(index, size, proof.leaf_hash, proof.hashes) == root
            assert proof.checkpoint == (log.log.notes[-1] if size == SIZE else b"")


async def test_each_size_is_a_beginning_of_each_later_one(log: WrittenLog) -> None:
    """Also of no leaves, and of the same size."""
    sizes = (0, 1, 31, 32, SIZE)
    roots = {size: await root_at(log, size) for size in sizes}
    for new in sizes[1:]:
        for old in (size for size in sizes if size <= new):
            proof = await log.reader.consistency_proof(old, None if new == SIZE else new)
            assert (proof.old_size, proof.new_size) == (old, new)
            assert verify_consistency(old, new, roots[old], roots[new], proof.hashes)
            assert proof.checkpoint == (log.log.notes[-1] if new == SIZE else b"")


async def root_at(log: WrittenLog, size: int) -> bytes:
    """The root over the first lines, computed from them alone."""
    if not size:
        return EMPTY_ROOT
    leaves = [leaf_hash(line) for line in log.log.lines[:size]]
    return merkle_root(leaves)


def merkle_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, to the letter."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(merkle_root(leaves[:half]), merkle_root(leaves[half:]))


async def test_what_is_not_covered_yet_may_be_asked_again(log: WrittenLog) -> None:
    """A line or a size beyond the newest checkpoint: later. With the next checkpoint it is there."""
    log.grow(3)
    for call in (
        log.reader.inclusion_proof(SIZE),
        log.reader.inclusion_proof(0, SIZE + 1),
        log.reader.inclusion_proof(SIZE, SIZE + 3),
        log.reader.consistency_proof(1, SIZE + 3),
    ):
        with pytest.raises(HandlerUnavailable) as caught:
            await call
        assert caught.value.retry_after_seconds == 1.0
    log.log.checkpoint()
    assert (await log.reader.inclusion_proof(SIZE)).tree_size == SIZE + 3


async def test_a_log_that_is_not_signed_yet(tmp_path: Path) -> None:
    """It has no checkpoint, and proves nothing yet."""
    async with written_log(tmp_path / "audit.json.log") as log:
        log.grow(2)
        assert await log.reader.checkpoint() is None
        for call in (log.reader.inclusion_proof(1), log.reader.consistency_proof(0)):
            with pytest.raises(HandlerUnavailable, match="is not signed yet"):
                await call


async def test_proofs_that_cannot_be(log: WrittenLog) -> None:
    """Sizes that make no sense are refused by their field's name; a line that is not there is not found."""
    for call, field in (
        (log.reader.inclusion_proof(5, 5), "tree_size"),
        (log.reader.inclusion_proof(5, SIZE + 1), "tree_size"),
        (log.reader.consistency_proof(SIZE + 1), "old_size"),
        (log.reader.consistency_proof(9, 8), "old_size"),
        (log.reader.consistency_proof(9, SIZE + 1), "new_size"),
    ):
        with pytest.raises(AuditQueryInvalid) as caught:
            await call
        assert caught.value.field == field
    with pytest.raises(AuditNotFound, match=f"no line {SIZE}"):
        await log.reader.inclusion_proof(SIZE)


async def test_no_proof_is_given_of_what_was_changed(log: WrittenLog) -> None:
    """A line that was edited, or a stored hash, is told instead."""
    edit(log.log.path, b'"event-000007"', b'"event-000O07"')
    with pytest.raises(AuditDamaged, match="line 7 is not what was signed; `emitd audit verify` says more"):
        await log.reader.inclusion_proof(7)
    assert (await log.reader.inclusion_proof(8)).leaf_index == 8
    hashes = bytearray(log.log.paths.hashes.read_bytes())
    hashes[1] ^= 1
    hashes[65] ^= 1
    log.log.paths.hashes.write_bytes(hashes)
    for index in range(2):
        with pytest.raises(AuditDamaged):
            await log.reader.inclusion_proof(index, 2)
    # A node that the root is made of.
    log.log.paths.hashes.write_bytes(bytes(len(hashes)))
    for call in (log.reader.inclusion_proof(8), log.reader.consistency_proof(1)):
        with pytest.raises(AuditDamaged, match="its stored hashes are not what was signed"):
            await call


async def test_files_that_are_gone_may_come_back(log: WrittenLog) -> None:
    """Without the lines nothing can be read, without the hashes nothing proved: later perhaps."""
    log.log.paths.hashes.unlink()
    for call in (log.reader.inclusion_proof(8), log.reader.consistency_proof(1)):
        with pytest.raises(HandlerUnavailable, match="cannot prove anything now"):
            await call
    assert indexes(await list_all(log.reader)) == list(range(SIZE))
    log.log.path.unlink()
    readings: list[Callable[[], object]] = [
        lambda: log.reader.list(AuditQuery()),
        lambda: log.reader.find("x"),
        lambda: log.reader.inclusion_proof(0),
    ]
    for reading in readings:
        with pytest.raises(HandlerUnavailable, match=r"cannot be read: No such file or directory"):
            await reading()  # type: ignore[misc]


async def test_a_tail_from_now_on(log: WrittenLog) -> None:
    """The first batch tells where it begins; then each line comes once, in order."""
    async with aclosing(log.reader.tail(AuditFilter())) as tail:
        assert await batch_of(tail) == AuditBatch((), SIZE)
        log.grow(1)
        batch = await batch_of(tail)
        assert [entry.line for entry in batch.entries] == [make_line(SIZE)]
        assert batch.next_index == SIZE + 1


async def test_a_tail_from_a_line_misses_none(log: WrittenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there and what comes meanwhile: each line once, in order, whatever the batches."""
    monkeypatch.setattr(audit_reader, "MAX_BATCH_ENTRIES", 7)
    monkeypatch.setattr(audit_reader, "MIN_INTERVAL_SECONDS", 0.001)
    got: list[int] = []

    async def grow() -> None:
        for count in (1, 9, 2, 30, 1):
            await asyncio.sleep(0.003)
            log.grow(count)

    growing = asyncio.create_task(grow())
    async with aclosing(log.reader.tail(AuditFilter(), from_index=13)) as tail:
        assert await batch_of(tail) == AuditBatch((), 13)
        while len(got) < SIZE + 43 - 13:
            batch = await batch_of(tail)
            assert 0 < len(batch.entries) <= 7
            got += [entry.leaf_index for entry in batch.entries]
            assert batch.next_index == got[-1] + 1
    await growing
    assert got == list(range(13, SIZE + 43))


async def test_an_idle_tail_says_so(log: WrittenLog) -> None:
    """Also one that has much to look at and finds nothing: it tells how far it is."""
    async with aclosing(
        log.reader.tail(AuditFilter(user_id="nobody"), from_index=0, idle_seconds=0.02)
    ) as tail:
        assert await batch_of(tail) == AuditBatch((), 0)
        assert await batch_of(tail) == AuditBatch((), SIZE)
        log.grow(5)
        while (batch := await batch_of(tail)).next_index == SIZE:
            pass
        assert batch == AuditBatch((), SIZE + 5)


async def test_a_tail_with_a_filter(log: WrittenLog) -> None:
    """Only what matches comes; the next index is beyond what does not."""
    async with aclosing(log.reader.tail(AuditFilter(user_id="user-3"), from_index=0)) as tail:
        await batch_of(tail)
        batch = await batch_of(tail)
        assert indexes(list(batch.entries)) == list(range(3, SIZE, 7))
        assert batch.next_index == SIZE


async def test_a_tail_begins_at_most_with_the_next_line(log: WrittenLog) -> None:
    """That one need not be there yet; one beyond is not found."""
    async with aclosing(log.reader.tail(AuditFilter(), from_index=SIZE)) as tail:
        assert (await batch_of(tail)).next_index == SIZE
    with pytest.raises(AuditNotFound, match=f"the log has {SIZE} lines"):
        await anext(log.reader.tail(AuditFilter(), from_index=SIZE + 1))


async def test_a_tail_does_not_go_on_in_another_log(log: WrittenLog) -> None:
    """A log that has fewer lines than were shown is another."""
    async with aclosing(log.reader.tail(AuditFilter(), idle_seconds=0.01)) as tail:
        await batch_of(tail)
        log.committed = (1, len(log.log.lines[0]) + 1)
        with pytest.raises(HandlerUnavailable, match="another was put in its place"):
            while True:
                await batch_of(tail)


async def test_a_long_search_lets_others_have_their_turn(
    log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes block by block: a proof that is asked for meanwhile comes first, and a cancel ends it."""
    monkeypatch.setattr(audit_scan, "NEEDLE_BLOCK_BYTES", 1000)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await log.reader.find("not-there")
    done: list[str] = []

    async def search() -> None:
        await log.reader.find("not-there")
        done.append("search")

    async def proof() -> None:
        await log.reader.inclusion_proof(1)
        done.append("proof")

    await asyncio.gather(search(), proof())
    assert done == ["proof", "search"]


async def test_lines_know_their_times(log: WrittenLog) -> None:
    """`received_at` is read as it was written; what is no audit line has none."""
    assert received_at(log.log.lines[3]) == TIME + 3_000_000
    assert received_at(b"{}") == 0
    assert received_at(log.log.lines[3].replace(b'"received_at":"2', b'"received_at":"x')) == 0
    assert log.reader.log_id == LOG_ID


async def test_an_event_id_belongs_to_its_source(log: WrittenLog) -> None:
    """Of several sources' events with one id that of the source is found; without a source, they are named."""
    log.commit([make_line(30, source="b"), make_line(31, source=""), make_line(30, source="b")])
    for source, index in (("test", 30), ("b", SIZE + 2), ("", None), ("x", None)):
        entry = await log.reader.find("event-000030", source)
        assert (entry and entry.leaf_index) == index
    entry = await log.reader.find("event-000031", "")
    assert entry is not None
    assert entry.leaf_index == SIZE + 1
    for event_id, names in (("event-000030", "'b', 'test'"), ("event-000031", "'', 'test'")):
        with pytest.raises(
            AuditQueryInvalid, match=rf"^source: several sources .* id, {names}: name one$"
        ) as caught:
            await log.reader.find(event_id)
        assert caught.value.field == "source"
    listed = await list_all(log.reader, filter=AuditFilter(event_id="event-000030", source="b"))
    assert indexes(listed) == [SIZE, SIZE + 2]
    assert indexes(await list_all(log.reader, filter=AuditFilter(source=""))) == [SIZE + 1]


async def test_sources_are_told_apart_however_far_from_each_other(
    log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several blocks of the file too."""
    monkeypatch.setattr(audit_scan, "NEEDLE_BLOCK_BYTES", 1000)
    log.commit([make_line(0, source="b")])
    with pytest.raises(AuditQueryInvalid, match="'b', 'test'"):
        await log.reader.find("event-000000")


async def test_before_an_id_that_the_server_made_nothing_is_looked_for(
    log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing earlier can have it: the rest of a large log is not read. Later lines can have it."""
    monkeypatch.setattr(audit_scan, "NEEDLE_BLOCK_BYTES", 1000)
    log.commit([make_line(70, is_assigned=True)])
    query = {"filter": AuditFilter(event_id="event-000070"), "newest_first": True, "max_scan_bytes": 1}
    page = await log.reader.list(AuditQuery(**query))  # type: ignore[arg-type]
    assert (indexes(list(page.entries)), page.next_page_token) == ([SIZE], "")
    log.commit([make_line(70, source="forger")])
    with pytest.raises(AuditQueryInvalid, match="'forger', 'test'"):
        await log.reader.find("event-000070")
