"""The export of a log: what is in the folder, what a second run changes, and what is refused.

That others can read the folder is in `tests/acceptance/test_audit_go_reader.py`.
"""

import fcntl
import os
from pathlib import Path

import pytest

from emitd_handlers.audit.format.files import Entry
from emitd_handlers.audit.publish import export as audit_export
from emitd_handlers.audit.publish.export import FolderMismatch, export_log
from emitd_handlers.audit.read.trail import CommittedTrail
from emitd_handlers.errors import AuditDamaged, HandlerUnavailable
from emitd_handlers.tlog.merkle import leaf_hash, stored_index
from support.audit.sealed_log import SealedLog, make_line


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries_of(bundle: bytes) -> list[bytes]:
    entries = []
    while bundle:
        end = 2 + int.from_bytes(bundle[:2])
        entries.append(bundle[2:end])
        bundle = bundle[end:]
    return entries


def grow(log: SealedLog, size: int) -> None:
    log.append([make_line(number) for number in range(len(log.lines), size)])
    log.checkpoint()


def files_of_export(log: SealedLog, folder: Path) -> dict[str, bytes]:
    export_log(log.path, folder)
    return files_of(folder)


def flip(path: Path, place: int) -> None:
    """Change one bit of a stored hash."""
    data = bytearray(path.read_bytes())
    data[place * 32] ^= 1
    path.write_bytes(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "www" / "audit"


def make(tmp_path: Path, *sizes: int) -> SealedLog:
    return SealedLog.make(tmp_path / "audit.json.log", *sizes)


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        (1, ["0/000.p/1", "entries/000.p/1"]),
        (256, ["0/000", "1/000.p/1", "entries/000"]),
        (
            600,
            ["0/000", "0/001", "0/002.p/88", "1/000.p/2", "entries/000", "entries/001", "entries/002.p/88"],
        ),
    ],
)
def test_the_folder_has_a_checkpoint_and_its_tiles(
    tmp_path: Path, folder: Path, size: int, tiles: list[str]
) -> None:
    """No more and no less than the specification asks for, and no temporary file is left."""
    log = make(tmp_path, size)
    export = export_log(log.path, folder)
    files = files_of(folder)
    assert sorted(files) == ["checkpoint", *(f"tile/{tile}" for tile in tiles)]
    assert files["checkpoint"] == log.notes[-1]
    assert (export.old_size, export.signed.checkpoint.size) == (0, size)
    assert export.tiles_written + export.bundles_written == len(tiles)
    assert export.bundles_written == sum(tile.startswith("entries") for tile in tiles)


def test_bundles_have_the_lines_and_tiles_their_hashes(tmp_path: Path, folder: Path) -> None:
    """Byte for byte, in order."""
    log = make(tmp_path, 300)
    export_log(log.path, folder)
    files = files_of(folder)
    assert entries_of(files["tile/entries/000"]) + entries_of(files["tile/entries/001.p/44"]) == log.lines
    hashes = b"".join(map(leaf_hash, log.lines))
    assert files["tile/0/000"] + files["tile/0/001.p/44"] == hashes


def test_only_what_is_signed_is_exported(tmp_path: Path, folder: Path) -> None:
    """Lines after the newest checkpoint wait for the next one."""
    log = make(tmp_path, 200)
    log.append([make_line(number) for number in range(200, 300)])
    assert export_log(log.path, folder).signed.checkpoint.size == 200
    assert sorted(files_of(folder)) == ["checkpoint", "tile/0/000.p/200", "tile/entries/000.p/200"]


@pytest.mark.parametrize(
    ("old", "new"), [(1, 2), (200, 300), (256, 257), (255, 256), (300, 1100), (512, 512)]
)
def test_a_second_run_brings_the_folder_up_to_date(tmp_path: Path, folder: Path, old: int, new: int) -> None:
    """It then has all that an export into an empty folder has, and the tiles of the older checkpoint as well."""
    log = make(tmp_path, old)
    export_log(log.path, folder)
    before = files_of(folder)
    grow(log, new)
    assert export_log(log.path, folder).old_size == old
    export_log(log.path, tmp_path / "afresh")
    after, afresh = files_of(folder), files_of(tmp_path / "afresh")
    assert afresh.items() <= after.items()
    del before["checkpoint"]
    assert before.items() <= after.items()
    assert after.keys() <= before.keys() | afresh.keys()


def test_what_is_there_is_left_alone(tmp_path: Path, folder: Path) -> None:
    """A second run without anything new writes nothing; one with a line more only what is at the edge."""
    log = make(tmp_path, 600)
    export_log(log.path, folder)
    inodes = {path: path.stat().st_ino for path in folder.rglob("*")}
    again = export_log(log.path, folder)
    assert (again.tiles_written, again.bundles_written) == (0, 0)
    assert inodes == {path: path.stat().st_ino for path in folder.rglob("*")}
    grow(log, 601)
    more = export_log(log.path, folder)
    assert (more.tiles_written, more.bundles_written) == (1, 1)


def test_what_the_folder_has_is_not_read_again(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update reads the lines from the last full bundle on."""
    log = make(tmp_path, 1000)
    export_log(log.path, folder)
    grow(log, 1010)
    offset = sum(len(line) + 1 for line in log.lines[:752])  # of the last index entry before line 768
    read: list[int] = []
    plain = audit_export.CommittedTrail.read_lines

    def read_lines(trail: audit_export.CommittedTrail, size: int, at: int) -> bytes:
        read.append(at)
        return plain(trail, size, at)

    monkeypatch.setattr(audit_export.CommittedTrail, "read_lines", read_lines)
    export_log(log.path, folder)
    assert min(read) >= offset - 1


@pytest.mark.parametrize("tile", ["0/001", "entries/001", "1/000.p/3", "0/003.p/32"])
@pytest.mark.parametrize("harm", ["removed", "cut", "longer"])
def test_a_file_that_was_harmed_is_made_good(tmp_path: Path, folder: Path, tile: str, harm: str) -> None:
    """Missing or of another size: all are looked through, and those that are wrong written again."""
    log = make(tmp_path, 800)
    export_log(log.path, folder)
    good = files_of(folder)
    file = folder / "tile" / tile
    match harm:
        case "removed":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:-1])
        case "longer":
            file.write_bytes(file.read_bytes() + b"x")
    export = export_log(log.path, folder)
    assert export.tiles_written + export.bundles_written == 1
    assert files_of(folder) == good


def test_an_export_that_was_stopped_goes_on(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stopped, the folder has no checkpoint whose tiles are missing, and the next run completes it."""
    log = make(tmp_path, 700)
    count = len(files_of_export(log, tmp_path / "whole"))
    plain = audit_export.replace_file
    for stop in range(count):
        place = folder / str(stop)
        left = [stop]

        def replace(path: Path, data: bytes, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            plain(path, data)

        monkeypatch.setattr(audit_export, "replace_file", replace)
        with pytest.raises(KeyboardInterrupt):
            export_log(log.path, place)
        assert not (place / "checkpoint").exists()
        monkeypatch.setattr(audit_export, "replace_file", plain)
        export = export_log(log.path, place)
        assert export.tiles_written + export.bundles_written == count - 1 - stop
        assert files_of(place) == files_of(tmp_path / "whole")


def test_the_checkpoint_comes_when_all_else_is_on_the_medium(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names in all folders are synced before it, and its own after it."""
    calls: list[str] = []
    replace, sync = audit_export.replace_file, audit_export.sync_folder

    def note(call: str, path: Path) -> None:
        calls.append(f"{call} {path.relative_to(folder)}")

    monkeypatch.setattr(
        audit_export, "replace_file", lambda path, data: note("write", path) or replace(path, data)
    )
    monkeypatch.setattr(audit_export, "sync_folder", lambda path: note("sync", path) or sync(path))
    export_log(make(tmp_path, 300).path, folder)
    written = [call for call in calls if call.startswith("write")]
    synced = [
        "tile/entries/001.p",
        "tile/entries",
        "tile/1/000.p",
        "tile/1",
        "tile/0/001.p",
        "tile/0",
        "tile",
        ".",
    ]
    assert calls == [*written[:-1], *(f"sync {each}" for each in synced), "write checkpoint", "sync ."]


def test_what_was_at_the_edge_is_removed_one_run_later(tmp_path: Path, folder: Path) -> None:
    """Who has read the checkpoint before finds its tiles still; after that they are removed, and nothing else."""
    log = make(tmp_path, 200)
    export_log(log.path, folder)
    grow(log, 300)
    export_log(log.path, folder)
    assert (folder / "tile/0/000.p/200").exists()
    other = folder / "tile" / "note.txt"
    other.touch()
    grow(log, 310)
    export_log(log.path, folder)
    assert sorted(files_of(folder)) == [
        "checkpoint",
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/0/001.p/54",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/44",
        "tile/entries/001.p/54",
        "tile/note.txt",
    ]


def test_a_new_key_signs_the_same_folder(tmp_path: Path, folder: Path) -> None:
    """The key that signed the newest checkpoint is told."""
    log = make(tmp_path, 10)
    export_log(log.path, folder)
    log.rotate_key()
    grow(log, 11)
    export = export_log(log.path, folder)
    assert [verifier.vkey for verifier in export.signed.signed_by] == log.vkeys[-1:]
    assert (folder / "checkpoint").read_bytes() == log.notes[-1]


def test_a_rebuilt_log_is_refused(tmp_path: Path, folder: Path) -> None:
    """Its first lines are not those in the folder, which stays as it is: it is evidence."""
    log = make(tmp_path, 20)
    export_log(log.path, folder)
    before = files_of(folder)
    rebuilt = SealedLog(tmp_path / "rebuilt.log")
    rebuilt.append([make_line(number, user="eve" if number == 7 else "") for number in range(40)])
    rebuilt.checkpoint()
    with pytest.raises(FolderMismatch, match="first 20 lines of the log are not those that the folder"):
        export_log(rebuilt.path, folder)
    assert files_of(folder) == before


def test_a_log_that_was_cut_is_refused(tmp_path: Path, folder: Path) -> None:
    """The folder has more lines than are signed."""
    export_log(make(tmp_path, 20).path, folder)
    shorter = SealedLog.make(tmp_path / "shorter.log", 19)
    with pytest.raises(FolderMismatch, match="has 20 lines of the log, of which only 19 are signed here"):
        export_log(shorter.path, folder)


def test_the_folder_of_another_log_is_refused(tmp_path: Path, folder: Path) -> None:
    """By its name; so is a folder with something else called `checkpoint`."""
    export_log(make(tmp_path, 20).path, folder)
    other = SealedLog(tmp_path / "other.log", log_id="emitd.test/other")
    other.append([make_line(0)])
    other.checkpoint()
    with pytest.raises(
        FolderMismatch, match=r"has the log 'emitd\.test/log', and this one is 'emitd\.test/other'"
    ):
        export_log(other.path, folder)
    (folder / "checkpoint").write_text("of a game")
    with pytest.raises(FolderMismatch, match="is not one that an export wrote"):
        export_log(other.path, folder)


@pytest.mark.parametrize("number", [0, 255, 256, 511, 599])
def test_a_line_that_was_changed_is_not_published(tmp_path: Path, folder: Path, number: int) -> None:
    """It is named, and no checkpoint comes into the folder."""
    log = make(tmp_path, 600)
    data = log.path.read_bytes()
    log.path.write_bytes(data.replace(log.lines[number], log.lines[number].replace(b"test", b"tast")))
    with pytest.raises(
        AuditDamaged, match=f"line {number} is not what was signed; `emitd audit verify` says more"
    ):
        export_log(log.path, folder)
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("place", [0, 1, stored_index(8, 0), stored_index(0, 550), stored_index(0, 599)])
def test_a_hash_that_was_changed_is_not_published(tmp_path: Path, folder: Path, place: int) -> None:
    """Of a leaf, or of a node in a tile above: what does not lead to the root is not written."""
    log = make(tmp_path, 600)
    good = files_of_export(log, tmp_path / "good")
    flip(log.paths.hashes, place)
    with pytest.raises(AuditDamaged, match="are not what was signed; `emitd audit verify` says more"):
        export_log(log.path, folder)
    assert not (folder / "checkpoint").exists()
    assert files_of(folder).items() <= good.items()


@pytest.mark.parametrize("place", [2, stored_index(7, 1)])
def test_a_hash_within_a_tile_does_not_matter(tmp_path: Path, folder: Path, place: int) -> None:
    """It is in no file: readers compute it."""
    log = make(tmp_path, 600)
    good = files_of_export(log, tmp_path / "good")
    flip(log.paths.hashes, place)
    assert files_of_export(log, folder) == good


def test_lines_that_were_cut_are_not_published(tmp_path: Path, folder: Path) -> None:
    """The first one that is missing is named."""
    log = make(tmp_path, 300)
    log.path.write_bytes(b"".join(line + b"\n" for line in log.lines[:270]))
    with pytest.raises(HandlerUnavailable, match=r"line 270 is missing, .* a copy"):
        export_log(log.path, folder)


def test_a_folder_whose_checkpoint_has_another_form(tmp_path: Path, folder: Path) -> None:
    """It is read as any kept file is, and written as it must be."""
    log = make(tmp_path, 20)
    export_log(log.path, folder)
    (folder / "checkpoint").write_bytes(b"\xef\xbb\xbf" + log.notes[0].replace(b"\n", b"\r\n"))
    assert export_log(log.path, folder).old_size == 20
    assert (folder / "checkpoint").read_bytes() == log.notes[0]


def test_a_checkpoint_that_comes_while_the_files_are_opened(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may sign new lines at any moment; the export has those that it saw."""
    log = make(tmp_path, 20)
    real = CommittedTrail.__init__

    def opened_late(trail: CommittedTrail, path: Path, end: Entry) -> None:
        log.append([make_line(20)])
        log.checkpoint()
        real(trail, path, end)

    monkeypatch.setattr(CommittedTrail, "__init__", opened_late)
    assert export_log(log.path, folder).signed.checkpoint.size == 20
    assert (folder / "checkpoint").read_bytes() == log.notes[0]


def test_a_line_that_is_too_long_for_a_bundle_is_told(tmp_path: Path, folder: Path) -> None:
    """An entry's length has two bytes."""
    log = SealedLog(tmp_path / "audit.json.log")
    log.append([b"x" * 65_535])
    log.checkpoint()
    export_log(log.path, folder)
    log.append([b"x" * 65_536])
    log.checkpoint()
    with pytest.raises(
        AuditDamaged, match=r"line 1 of the audit log .* has 65536 bytes, and a bundle can hold 65535"
    ):
        export_log(log.path, folder)


def test_two_exports_into_one_folder_do_not_meet(tmp_path: Path, folder: Path) -> None:
    """The second one says so; when the first is done, it goes."""
    log = make(tmp_path, 3)
    folder.mkdir(parents=True)
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(HandlerUnavailable, match=r"another export into '.*' is under way"):
        export_log(log.path, folder)
    os.close(fd)
    assert export_log(log.path, folder).tiles_written == 1


def test_a_log_without_lines_has_a_checkpoint_and_no_tiles(tmp_path: Path, folder: Path) -> None:
    """Of size 0; when lines come, they are added to it."""
    log = make(tmp_path, 0)
    export_log(log.path, folder)
    assert sorted(files_of(folder)) == ["checkpoint"]
    grow(log, 1)
    assert export_log(log.path, folder).tiles_written == 1
