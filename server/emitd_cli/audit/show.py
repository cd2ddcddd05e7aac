"""`emitd audit show`: one event, and its place in the log."""

import argparse
import json

import grpc

from emitd.v1 import (
    AuditEntry,
    AuditServiceStub,
    GetCheckpointRequest,
    GetCheckpointResponse,
    ListAuditEventsRequest,
    ListAuditEventsResponse,
)
from emitd_cli.audit.lines import describe_event
from emitd_cli.connection import cannot_tell, connect_audit, is_refusal, refused, result_of
from emitd_cli.errors import CannotTell, Misuse
from emitd_cli.exit_codes import ExitCode
from emitd_cli.terminal.output import print_result
from emitd_handlers.tlog.merkle import leaf_hash

CALL_SECONDS = 30.0


def run(options: argparse.Namespace) -> int:
    """Print the event; return 0. Raises CannotTell if there is none, or no server."""
    if not options.event_id:
        raise Misuse("EVENT_ID: is empty", field="EVENT_ID")
    try:
        with connect_audit(options.address) as stub:
            log_id, entry = _find(stub, options)
            covered_by, coverage = _covering_size(stub, log_id, entry, options.address)
    except grpc.RpcError as error:
        end = refused if is_refusal(error) else cannot_tell
        raise end(error, options.address) from error
    # Of the line as it came, so that it is not the server's word.
    leaf = leaf_hash(entry.line)
    if options.json:
        print_result(_to_json(entry, log_id, leaf, covered_by))
    else:
        print_result(describe_event(entry, log_id, leaf, coverage))
    return ExitCode.GOOD


def _find(stub: AuditServiceStub, options: argparse.Namespace) -> tuple[str, AuditEntry]:
    request = ListAuditEventsRequest(
        log_id=options.log_id, event_id=options.event_id, newest_first=True, page_size=1
    )
    while True:
        call = stub.ListAuditEvents.future(request, timeout=CALL_SECONDS)
        response: ListAuditEventsResponse = result_of(call, options.address)
        if response.entries:
            return response.log_id, response.entries[0]
        if not response.next_page_token:
            raise CannotTell(
                f"there is no event '{options.event_id}' in the log '{response.log_id}'", code="NOT_FOUND"
            )
        request.page_token = response.next_page_token


def _covering_size(stub: AuditServiceStub, log_id: str, entry: AuditEntry, address: str) -> tuple[int, str]:
    """Return how many lines the newest checkpoint covers, if the entry is among them; else 0, and why."""
    call = stub.GetCheckpoint.future(GetCheckpointRequest(log_id=log_id), timeout=CALL_SECONDS)
    try:
        response: GetCheckpointResponse = result_of(call, address)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return 0, f"by no checkpoint that the server can show: {error.details()}"
    size = response.tree_size
    if entry.leaf_index < size:
        return size, f"by the checkpoint over {size} lines"
    return 0, f"by no checkpoint yet; the newest is over {size} lines"


def _to_json(entry: AuditEntry, log_id: str, leaf: bytes, covered_by: int) -> str:
    return json.dumps(
        {
            "log_id": log_id,
            "leaf_index": entry.leaf_index,
            "leaf_hash": leaf.hex(),
            "covered_by_tree_size": covered_by or None,
            "line": entry.line.decode(errors="replace"),
        }
    )
