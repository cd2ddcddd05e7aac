"""The gRPC edge of `emitd.v1.LogService`; see `rpc` for how requests come in and errors go out."""

import secrets
from collections.abc import AsyncGenerator, Sequence

import grpc
from google.rpc import status_pb2

from emitd.v1 import job_pb2, log_line_pb2, log_service_pb2, record_pb2
from emitd_handlers.errors import EmitdError, RecordForbidden
from emitd_handlers.jobs.source import Job, JobFilter, JobSource
from emitd_handlers.outcome import Committed, JobReceipt, Outcomes, Refused
from emitd_handlers.record import LogRecord
from emitd_handlers.scope import Caller
from emitd_server.access.trail import AccessTrail
from emitd_server.convert.jobs import (
    job_to_wire,
    read_job_id,
    read_query,
    read_transition_query,
    transitions_to_wire,
)
from emitd_server.convert.records import RecordReader, receipt_bytes, receipt_to_wire
from emitd_server.dispatch.dispatcher import Dispatcher
from emitd_server.errors import JobNotFound, RequestInvalid
from emitd_server.rpc.edge import Edge
from emitd_server.rpc.job_streams import JobWatches
from emitd_server.rpc.log_reads import LogReads
from emitd_server.rpc.methods import Rpcs, parse, parse_records, refuse_unknown
from emitd_server.rpc.open_streams import OpenStreams
from emitd_server.rpc.status import code_of, is_retryable, status_of

#: Those of a batch's errors that come with a text, and those of its notices that come with the id of the job: the reply
#: stays under 2 MiB.
EXPLAINED_ERRORS = 100
NAMED_NOTICES = 1000
#: The receipts of a batch.
MAX_RECEIPTS_BYTES = 1024 * 1024
_EMIT_BATCH = "emitd.v1.LogService/EmitBatch"


class LogServicer:
    """Serves the RPCs of LogService from what a `Dispatcher` holds."""

    service_name = "emitd.v1.LogService"

    def __init__(self, dispatcher: Dispatcher, trail: AccessTrail) -> None:
        self._dispatcher = dispatcher
        self._trail = trail
        #: Never 0, which means none.
        self._server_id = secrets.randbits(64) | 1
        self._limits = dispatcher.settings.limits
        self._reader = RecordReader(self._limits, dispatcher.clock.now, dispatcher.redactor)
        self._watches = JobWatches(dispatcher.settings.watch)
        self._lines = LogReads(dispatcher)

    def handler(self, edge: Edge, streams: OpenStreams) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what a grpc server needs to route calls here."""
        rpcs = Rpcs(self.service_name, edge, streams, self._dispatcher.report)
        rpcs.unary("Emit", self.emit, log_service_pb2.EmitRequest, "record")
        rpcs.page("EmitBatch", self.emit_batch, log_service_pb2.EmitBatchRequest, is_owed=True)
        rpcs.page("GetJob", self.get_job, job_pb2.GetJobRequest)
        rpcs.page("ListJobs", self.list_jobs, job_pb2.ListJobsRequest)
        rpcs.page("ListJobTransitions", self.list_job_transitions, job_pb2.ListJobTransitionsRequest)
        rpcs.page("RequestCancel", self.request_cancel, job_pb2.RequestCancelRequest)
        rpcs.stream("WatchJob", self.watch_job, job_pb2.WatchJobRequest)
        rpcs.stream("WatchJobs", self.watch_jobs, job_pb2.WatchJobsRequest)
        rpcs.page("ListLogs", self.list_logs, log_line_pb2.ListLogsRequest)
        rpcs.stream("TailLogs", self.tail_logs, log_line_pb2.TailLogsRequest)
        return rpcs.handler()

    async def emit(self, data: bytes, caller: Caller) -> bytes:
        """Emit: one record, a batch of one."""
        request, has_unknown, plain = parse_records(log_service_pb2.EmitRequest, data)
        if has_unknown:
            refuse_unknown(request, is_kept=True)
        if not request.HasField("record"):
            raise RequestInvalid("record", "is mandatory")
        records, _, bad = self._reader.read_all([request.record], plain, sender=caller)
        if bad:
            raise bad[0]
        outcome = (await self._dispatcher.dispatch(records, len(data)))[0]
        if isinstance(outcome, Refused):
            raise outcome.error
        receipt = receipt_to_wire(records[0], outcome, self._dispatcher.route(records[0]))
        return log_service_pb2.EmitResponse(receipt=receipt).SerializeToString()

    async def emit_batch(self, data: bytes, caller: Caller) -> bytes:
        """EmitBatch: errors and notices by index; all other records are only counted."""
        request, has_unknown, plain = parse_records(log_service_pb2.EmitBatchRequest, data)
        wire_records = request.records
        if has_unknown:
            refuse_unknown(request, skip="records", is_kept=True)

        def check(index: int, record: record_pb2.LogRecord) -> None:
            refuse_unknown(record, f"records[{index}]", is_kept=True)

        records, indexes, bad = self._reader.read_all(
            wire_records, plain, check if has_unknown else None, sender=caller
        )
        if request.want_receipts:
            self._refuse_large_receipts(records)
        outcomes = await self._dispatcher.dispatch(records, len(data)) if records else Outcomes.of(())
        refused: dict[int, EmitdError] = dict(bad)
        response = log_service_pb2.EmitBatchResponse(server_id=self._server_id)
        duplicates = 0
        for place, outcome in outcomes.exceptional.items():
            if isinstance(outcome, Refused):
                refused[indexes[place]] = outcome.error
                continue
            duplicates += outcome.duplicate
            if isinstance(outcome.receipt, JobReceipt) and outcome.receipt.is_notable:
                response.job_notices.add(
                    index=indexes[place],
                    job_id=outcome.receipt.job_id if len(response.job_notices) < NAMED_NOTICES else "",
                    stale_reason=outcome.receipt.stale_reason,
                    current_attempt=outcome.receipt.attempt,
                    cancel_requested=outcome.receipt.cancel_requested,
                )
        response.accepted_count = len(wire_records) - len(refused) - duplicates
        response.duplicate_count = duplicates
        if forbidden := sum([isinstance(error, RecordForbidden) for error in refused.values()]):
            self._trail.refused(
                caller.principal.name, caller.address, _EMIT_BATCH, "PERMISSION_DENIED", forbidden
            )
        for number, (index, error) in enumerate(sorted(refused.items())):
            status = (
                status_of(error, f"records[{index}]")
                if number < EXPLAINED_ERRORS
                else status_pb2.Status(code=code_of(error))
            )
            response.errors.add(index=index, status=status, retryable=is_retryable(error))
        if request.want_receipts:
            receipts = [log_service_pb2.Receipt() for _ in wire_records]
            for index, record, outcome in zip(indexes, records, outcomes, strict=True):
                if isinstance(outcome, Committed):
                    receipts[index] = receipt_to_wire(record, outcome, self._dispatcher.route(record))
            response.receipts.extend(receipts)
        return response.SerializeToString()

    def _refuse_large_receipts(self, records: Sequence[LogRecord]) -> None:
        size = sum([receipt_bytes(record, self._dispatcher.route(record)) for record in records])
        if size > MAX_RECEIPTS_BYTES:
            problem = f"{len(records)} receipts may have {size} bytes, more than {MAX_RECEIPTS_BYTES}"
            raise RequestInvalid("want_receipts", f"{problem}; send fewer records at once")

    async def get_job(self, data: bytes, caller: Caller) -> bytes:
        """GetJob."""
        request = parse(job_pb2.GetJobRequest, data)
        job_id = read_job_id(request.job_id)
        job = await self._visible_job(self._dispatcher.jobs, job_id, caller)
        return job_pb2.GetJobResponse(job=job_to_wire(job)).SerializeToString()

    async def _visible_job(self, source: JobSource, job_id: str, caller: Caller) -> Job:
        job = await source.get(job_id)
        if job is None or not JobFilter(scope=caller.scope).matches(job):
            raise JobNotFound(job_id)
        return job

    async def list_jobs(self, data: bytes, caller: Caller) -> bytes:
        """ListJobs."""
        query = read_query(parse(job_pb2.ListJobsRequest, data), caller.scope)
        page = await self._dispatcher.jobs.list(query)
        response = job_pb2.ListJobsResponse(
            jobs=[job_to_wire(job) for job in page.jobs if query.matches(job)],
            next_page_token=page.next_page_token,
        )
        return response.SerializeToString()

    def watch_job(self, data: bytes, caller: Caller) -> AsyncGenerator[bytes, None]:
        """WatchJob."""
        return self._watches.watch(self._dispatcher.jobs, parse(job_pb2.WatchJobRequest, data), caller.scope)

    def watch_jobs(self, data: bytes, caller: Caller) -> AsyncGenerator[bytes, None]:
        """WatchJobs."""
        request = parse(job_pb2.WatchJobsRequest, data)
        return self._watches.watch_many(self._dispatcher.managed_jobs, request, caller.scope)

    async def list_job_transitions(self, data: bytes, caller: Caller) -> bytes:
        """ListJobTransitions."""
        query = read_transition_query(parse(job_pb2.ListJobTransitionsRequest, data))
        source = self._dispatcher.managed_jobs
        await self._visible_job(source, query.job_id, caller)
        page = await source.list_transitions(query)
        if page is None:
            raise JobNotFound(query.job_id)
        return transitions_to_wire(page).SerializeToString()

    async def request_cancel(self, data: bytes, caller: Caller) -> bytes:
        """RequestCancel."""
        request = parse(job_pb2.RequestCancelRequest, data)
        job_id = read_job_id(request.job_id)
        if len(request.reason.encode()) > self._limits.max_name_bytes:
            raise RequestInvalid("reason", f"has more than {self._limits.max_name_bytes} bytes")
        source = self._dispatcher.managed_jobs
        await self._visible_job(source, job_id, caller)
        job = await source.request_cancel(job_id, request.reason)
        if job is None:
            raise JobNotFound(job_id)
        self._trail.cancelled(caller.principal, job_id, request.reason)
        return job_pb2.RequestCancelResponse(job=job_to_wire(job)).SerializeToString()

    async def list_logs(self, data: bytes, caller: Caller) -> bytes:
        """ListLogs."""
        request = parse(log_line_pb2.ListLogsRequest, data)
        self._trail.read(caller.principal, f"{self.service_name}/ListLogs")
        return (await self._lines.list(request, caller.scope)).SerializeToString()

    def tail_logs(self, data: bytes, caller: Caller) -> AsyncGenerator[bytes, None]:
        """TailLogs: to the end of the server, with heartbeats."""
        request = parse(log_line_pb2.TailLogsRequest, data)
        self._trail.read(caller.principal, f"{self.service_name}/TailLogs")
        return self._lines.tail(request, caller.scope)
