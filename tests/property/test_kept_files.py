"""Files that were kept of a log: they count in any form, and accuse nobody without a signature.

The log is good in every example, so a verdict "bad" is wrong.
"""

import json
import tempfile
from base64 import b64encode
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_cli.audit.log_files import keys_from_flags
from emitd_handlers.audit.publish.prove import check_proof, prove_event
from emitd_handlers.audit.verify.evidence import HeldElsewhere
from emitd_handlers.audit.verify.findings import Verdict, VerifyReport
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.tlog.kept_file import kept_text, proof_in
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_handlers.tlog.proof_file import HEADER, TlogProof
from support.audit.sealed_log import SealedLog, make_line

KINDS = ("checkpoint", "checkpoints", "proof", "receipt")
_folder = tempfile.TemporaryDirectory()


@cache
def log() -> SealedLog:
    return SealedLog.make(Path(_folder.name, "audit.json.log"), 10, 40)


@cache
def other() -> SealedLog:
    log = SealedLog(Path(_folder.name, "other.log"), log_id="emitd.test/other")
    log.append([make_line(number) for number in range(3)])
    log.checkpoint()
    return log


@cache
def kept(kind: str) -> str:
    if kind == "checkpoint":
        return log().notes[1].decode()
    if kind == "checkpoints":
        return log().paths.checkpoints.read_text()
    if kind == "proof":
        return prove_event(log().path, "event-000012").proof.encode().decode()
    leaf = b64encode(leaf_hash(log().lines[7])).decode()
    audit = {"log_id": log().log_id, "event_id": "event-000007", "leaf_index": "7", "leaf_hash": leaf}
    return json.dumps({"receipt": {"audit": audit}}, indent=2)


def against(data: bytes) -> VerifyReport:
    return verify_log(log().path, against=[HeldElsewhere("kept", data)])


@st.composite
def forms(draw: st.DrawFn, text: str, *, around: bool) -> bytes:
    """The text as some program has written it."""
    blanks = st.sampled_from(["", " ", "\t", "  "])
    text = "\n".join(draw(blanks) + line + draw(blanks) for line in text.split("\n"))
    if around:
        words = st.lists(st.sampled_from(["Dear auditor,", "", "-- ", "12", "<p>", "\ufeff"]), max_size=4)
        text = "\n".join([*draw(words), "", text, "", *draw(words)])
    text = text.rstrip("\n") + draw(st.sampled_from(["", "\n", "\n\n \n"]))
    newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return text.replace("\n", newline).encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))


@given(st.data(), st.sampled_from(KINDS))
def test_whatever_its_form_is(data: st.DataObject, kind: str) -> None:
    """It confirms what it confirmed when it was written."""
    form = data.draw(forms(kept(kind), around=kind != "receipt"))
    report = against(form)
    assert (report.verdict, report.notes[-1]) == (Verdict.GOOD, against(kept(kind).encode()).notes[-1])
    assert report.notes[-1].startswith("by 'kept': ")
    if kind == "proof":
        read = proof_in(kept_text(form), HEADER)
        assert read is not None
        assert check_proof(TlogProof.parse(read), [log().signers[0].verifier]).line == log().lines[12]


@given(st.data())
def test_a_key_whatever_its_form_is(data: st.DataObject) -> None:
    """It is the same key."""
    file = Path(_folder.name, "auditor.vkey")
    file.write_bytes(data.draw(forms(f"{log().vkeys[0]}\n", around=False)))
    assert [key.vkey for key in keys_from_flags([str(file)])] == log().vkeys


@given(st.sampled_from(KINDS), st.integers(0), st.binary(max_size=3), st.integers(0, 3))
def test_whatever_was_done_to_it(kind: str, at: int, new: bytes, gone: int) -> None:
    """Bytes that no key of the log signed accuse nobody."""
    good = kept(kind).encode()
    at %= len(good)
    assert against(good[:at] + new + good[at + gone :]).verdict is not Verdict.BAD


@given(st.binary() | st.text().map(str.encode))
def test_whatever_it_is(data: bytes) -> None:
    """It is said that it says nothing."""
    report = against(data)
    assert (report.verdict, report.findings) == (Verdict.CANNOT_TELL, [])
    assert report.notes[0].startswith("'kept' says nothing: ")


NOTHING = {
    "empty": lambda: b"",
    "a page": lambda: b"<html>\n<body>\n\n404\n</body></html>\n",
    "not signed": lambda: kept("checkpoint").partition("\n\n")[0].encode() + b"\n\n",
    "another encoding": lambda: kept("checkpoint").encode("cp1252"),
    "UTF-16 without its mark": lambda: kept("checkpoint").encode("utf-16")[2:],
    "zeros": lambda: b"\0" * 100,
    "a list": lambda: b"[1]",
    "another size": lambda: log().notes[1].replace(b"\n40\n", b"\n41\n"),
    "another root": lambda: log().notes[1].replace(log().notes[1].split(b"\n")[2], b64encode(bytes(32))),
    "another log": lambda: other().notes[0],
    "signed by another log": lambda: log().notes[1].partition(b"\n\n")[0] + b"\n\n" + other().notes[0][-200:],
}


@pytest.mark.parametrize("what", NOTHING)
def test_what_proves_nothing(what: str) -> None:
    """It is not the log that is to blame."""
    report = against(NOTHING[what]())
    assert (report.verdict, report.findings) == (Verdict.CANNOT_TELL, [])


def test_a_stranger_beside_it_takes_nothing_away() -> None:
    """What is signed counts, and what is not is named."""
    report = against(other().notes[0] + b"\n" + log().notes[1])
    assert report.verdict is Verdict.GOOD
    assert (
        "begins with the 40 lines that this checkpoint was signed over; of 1 more there, one says"
        in report.notes[-1]
    )


def test_a_signed_contradiction_counts_whatever_its_form_is() -> None:
    """The one thing that makes a log bad: a key of the log signed other lines."""
    rebuilt = SealedLog(Path(_folder.name, "rebuilt.log"))
    rebuilt.signers = log().signers
    rebuilt.append([make_line(number, user="eve") for number in range(40)])
    note = rebuilt.checkpoint()
    for data in (note, b"\xef\xbb\xbf" + note.replace(b"\n", b" \r\n"), other().notes[0] + b"\n" + note):
        report = against(data)
        assert [finding.kind for finding in report.findings] == ["LOG_REBUILT"]
