"""From the service's errors to those of clients: one table, for whoever uses the service in process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from emitd.errors import EmitError, JobNotFound, RecordRejected, RequestRejected, Unavailable
from emitd_handlers import errors as handlers
from emitd_server import errors as service

__all__ = ["CLIENT_ERRORS", "client_error", "client_errors"]

#: What a client raises for every error that can reach a caller.
CLIENT_ERRORS: Mapping[type[handlers.EmitdError], type[EmitError]] = {
    handlers.RecordInvalid: RecordRejected,
    handlers.RecordConflict: RecordRejected,
    service.NoHandler: RecordRejected,
    service.RequestInvalid: RequestRejected,
    handlers.JobQueryInvalid: RequestRejected,
    service.NoJobSource: RequestRejected,
    # Of the audit trail, which clients do not read yet.
    handlers.AuditQueryInvalid: RequestRejected,
    handlers.AuditNotFound: RequestRejected,
    handlers.AuditDamaged: RequestRejected,
    service.AuditLogNotFound: RequestRejected,
    service.NoAuditSource: RequestRejected,
    service.JobNotFound: JobNotFound,
    handlers.HandlerBusy: Unavailable,
    handlers.HandlerUnavailable: Unavailable,
    handlers.HandlerTimeout: Unavailable,
    service.TooManyWatchers: Unavailable,
    service.ServiceStopping: Unavailable,
}


def client_error(error: handlers.EmitdError) -> EmitError:
    """Return the client's error that says the same."""
    for base in type(error).__mro__:
        if base in CLIENT_ERRORS:
            return CLIENT_ERRORS[base](str(error), field=error.field)
    return EmitError(str(error), field=error.field)


@contextmanager
def client_errors() -> Iterator[None]:
    """Turn the errors of the service that the block raises into those of clients."""
    try:
        yield
    except handlers.EmitdError as error:
        raise client_error(error) from error
