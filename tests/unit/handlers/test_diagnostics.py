"""The service's lines on standard error."""

import pytest

from emitd_handlers.diagnostics import report


def test_a_report_is_one_line_that_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """What a record or an exception brings into it forges no other line, and moves no cursor."""
    report("handler 'a\nemitd stopped\x9b2J\u202e\u200e' failed")
    assert capsys.readouterr().err == "emitd handler 'a\\nemitd stopped\\u009b2J\\u202e\\u200e' failed\n"
