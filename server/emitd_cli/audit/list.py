"""`emitd audit list`: a line for each event, cut to its width on a terminal, or the log's own lines."""

import argparse
from collections.abc import Iterator, Sequence

import grpc

from emitd.v1 import AuditEntry, AuditServiceStub, ListAuditEventsRequest, ListAuditEventsResponse
from emitd_cli.audit.lines import event_lines, print_json_lines, terminal_width
from emitd_cli.command_line.timestamps import moment_from_flag
from emitd_cli.connection import cannot_tell, connect_audit, is_refusal, refused, result_of
from emitd_cli.exit_codes import ExitCode
from emitd_cli.terminal.output import say

CALL_SECONDS = 30.0
#: A server sends no more events in one answer.
MAX_PAGE_SIZE = 1000


def run(options: argparse.Namespace) -> int:
    """Print the events; return 0. Raises Misuse, Refused, and CannotTell without a server."""
    request = ListAuditEventsRequest(
        log_id=options.log_id,
        event_name_prefix=options.event,
        user_id=options.user,
        source_ip=options.source_ip,
        newest_first=not options.oldest_first,
    )
    if options.since is not None:
        request.received_after_unix_nano = moment_from_flag("--since", options.since)
    if options.until is not None:
        request.received_before_unix_nano = moment_from_flag("--until", options.until)
    is_filtered = bool(options.event or options.user or options.source_ip)
    try:
        with connect_audit(options.address) as stub:
            pages = _Pages(stub, request, options)
            if options.json:
                for page in pages:
                    print_json_lines(page)
            else:
                is_filtered_at_all = is_filtered or options.since is not None or options.until is not None
                _show([entry for page in pages for entry in page], is_filtered=is_filtered_at_all)
    except grpc.RpcError as error:
        end = refused if is_refusal(error) else cannot_tell
        raise end(error, options.address) from error
    if pages.was_cut:
        # A filter's further events would have to be looked for first.
        verb = "may be" if is_filtered else "are"
        say(f"there {verb} more than {options.limit} such events; --limit N shows more")
    return ExitCode.GOOD


class _Pages:
    """The events that a request asks for, page by page, as far as the limit; then `was_cut` says if it cut them."""

    def __init__(
        self, stub: AuditServiceStub, request: ListAuditEventsRequest, options: argparse.Namespace
    ) -> None:
        self._stub = stub
        self._request = request
        self._options = options
        self.was_cut = False

    def __iter__(self) -> Iterator[Sequence[AuditEntry]]:
        left = self._options.limit
        while left > 0:
            response = self._page(left)
            yield response.entries
            left -= len(response.entries)
            if not response.next_page_token:
                return
            self._request.page_token = response.next_page_token
        self.was_cut = True

    def _page(self, size: int) -> ListAuditEventsResponse:
        self._request.page_size = min(size, MAX_PAGE_SIZE)
        call = self._stub.ListAuditEvents.future(self._request, timeout=CALL_SECONDS)
        response: ListAuditEventsResponse = result_of(call, self._options.address)
        return response


def _show(entries: Sequence[AuditEntry], *, is_filtered: bool) -> None:
    if not entries:
        # Not on standard output: in a pipe, no event is no line.
        say("no event is like that" if is_filtered else "there are no events")
        return
    print("\n".join(event_lines(entries, terminal_width())))
