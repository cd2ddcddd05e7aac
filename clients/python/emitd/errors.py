"""What a client raises: one small tree, the same in process and over the network.

EmitError                  .retryable says whether the same again can help, .field which field is at fault
├── RecordRejected         the record is at fault, its id was used before, or no handler takes its level
├── RequestRejected        a request makes no sense, or the service cannot answer it
├── JobNotFound            there is no such job
├── AuditNotFound          there is no such audit log, line or event
├── VerificationFailed     a receipt does not hold: its event is not in the log that was signed
├── JobNotApplied          a report changed nothing: .stale_reason says why
│   └── LeaseLost          the attempt went on, or ended, without its reporter
├── Unavailable            not now: try again (retryable)
└── ClientNotOpen          misuse: the client is closed, or not open yet

Only awaited calls raise these. A plain call, such as `info`, counts its trouble instead: see `stats`. One exception:
every call of a reporter whose job went on without it raises LeaseLost.
"""


class EmitError(Exception):
    """The root of all errors of a client."""

    #: Whether the same again can help.
    retryable = False

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        #: The path of the field at fault within the record or request, such as `audit.source_ip`; or empty.
        self.field = field


class RecordRejected(EmitError):
    """The record was refused for good: another try with the same content will be too."""


class RequestRejected(EmitError):
    """A request makes no sense, such as one for jobs of an unknown status; or it is not answered, or not to us."""


class JobNotFound(EmitError):
    """There is no such job: no report of it was ever applied."""


class AuditNotFound(EmitError):
    """There is no such audit log, or it has no such line or event."""


class VerificationFailed(EmitError):
    """A receipt does not hold: the log does not have its event, or the key has not signed that log."""


class JobNotApplied(EmitError):
    """A report was accepted and changed nothing, because the job has moved on without its sender.

    `stale_reason` is SUPERSEDED, ATTEMPT_ENDED or OUT_OF_ORDER: see `emitd.v1.JobReceipt`.
    """

    def __init__(self, job_id: str, stale_reason: str) -> None:
        super().__init__(f"the report on job '{job_id}' was not applied: {stale_reason}")
        self.job_id = job_id
        self.stale_reason = stale_reason


class LeaseLost(JobNotApplied):
    """The attempt of a running reporter has ended or was superseded: its lease ran out, or another run began.

    Stop working: further reports change nothing.
    """


class Unavailable(EmitError):
    """The record was not committed in time, or it is not known whether it was.

    Another try is safe under the same `record_id`; without one it makes another record.
    """

    retryable = True


class ClientNotOpen(EmitError):
    """The client is closed, or it has not been opened: its calls belong inside of `async with`."""
