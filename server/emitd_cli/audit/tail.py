"""`emitd audit tail`: each event as it is committed, until Ctrl-C."""

import argparse
import time
from typing import NoReturn

import grpc

from emitd.v1 import AuditServiceStub, TailAuditEventsRequest, TailAuditEventsResponse
from emitd_cli.audit.lines import event_line, print_json_lines, terminal_width
from emitd_cli.connection import (
    cannot_tell,
    connect_audit,
    describe,
    is_refusal,
    is_retryable,
    refused,
    retry_seconds,
)
from emitd_cli.errors import CannotTell
from emitd_cli.terminal.output import say


def run(options: argparse.Namespace) -> int:
    """Print events until it is interrupted. Raises Refused, and CannotTell without a server."""
    with connect_audit(options.address) as stub:
        _Tail(stub, options).follow()


class _Tail:
    """Follows a log over as many connections as it takes."""

    def __init__(self, stub: AuditServiceStub, options: argparse.Namespace) -> None:
        self._stub = stub
        self._options = options
        self._request = TailAuditEventsRequest(
            log_id=options.log_id,
            from_index=options.from_index,
            event_name_prefix=options.event,
            user_id=options.user,
            source_ip=options.source_ip,
        )
        #: A server that has not answered at all is more likely to be a wrong address than one that will come back.
        self._has_answered = False
        #: Whether it was told that the server is away.
        self._is_told = False

    def follow(self) -> NoReturn:
        """Print every event, for ever. Raises Refused, CannotTell."""
        while True:
            try:
                for response in self._stub.TailAuditEvents(self._request):
                    self._take(response)
            except grpc.RpcError as error:
                self._wait_for_server(error)
            else:
                raise CannotTell("the server ended the stream without a word")

    def _take(self, response: TailAuditEventsResponse) -> None:
        if self._is_told:
            say(f"{self._options.address} answers again; going on with line {self._request.from_index}")
        self._has_answered, self._is_told = True, False
        if self._options.json:
            print_json_lines(response.entries)
        else:
            for entry in response.entries:
                print(event_line(entry, terminal_width()), flush=True)
        # Another connection goes on here, and in no other log.
        self._request.log_id, self._request.from_index = response.log_id, response.next_index

    def _wait_for_server(self, error: grpc.RpcError) -> None:
        """Return when it is worth trying again; raise if it is not."""
        address = self._options.address
        if is_refusal(error):
            raise refused(error, address) from error
        if not self._has_answered or not is_retryable(error):
            raise cannot_tell(error, address) from error
        if not self._is_told:
            self._is_told = True
            say(f"{describe(error, address)}; trying again until it answers (Ctrl-C ends it)")
        time.sleep(retry_seconds(error))
