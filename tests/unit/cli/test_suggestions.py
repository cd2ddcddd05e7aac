"""What a word that is not known most probably meant."""

from emitd_cli.command_line.parser import did_you_mean, not_one_of

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def test_a_slip_of_the_finger() -> None:
    """The nearest is named, in any case of the letters."""
    assert not_one_of("wraning", LEVELS) == (
        "'wraning' is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL; did you mean 'WARNING'?"
    )


def test_a_word_from_elsewhere() -> None:
    """It is the one meant that is named, also where no letter is the same."""
    assert did_you_mean("Fatal", LEVELS, {"FATAL": "CRITICAL"}) == "; did you mean 'CRITICAL'?"


def test_a_word_that_is_near_to_none() -> None:
    """Nothing is guessed."""
    assert did_you_mean("zzz", LEVELS) == ""
    assert did_you_mean("x", ()) == ""
