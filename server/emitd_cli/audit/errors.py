"""How a command ends where a log's files do not give what it needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from emitd_cli.errors import CannotTell, CommandError
from emitd_handlers.durable.append_file import reason_of
from emitd_handlers.errors import AuditDamaged, AuditNotFound, HandlerUnavailable
from emitd_handlers.tlog.note import NoteInvalid


@contextmanager
def files_to_errors() -> Iterator[None]:
    """Turn what reading and writing a log's files may raise into what ends the command."""
    try:
        yield
    except AuditDamaged as error:
        raise CommandError(str(error), code="DAMAGED") from error
    except AuditNotFound as error:
        raise CannotTell(str(error), code="NOT_FOUND") from error
    except HandlerUnavailable as error:
        raise CannotTell(str(error)) from error
    except NoteInvalid as error:
        raise CommandError(str(error), code="KEYS_WRONG") from error
    except OSError as error:
        raise CannotTell(reason_of(error)) from error
