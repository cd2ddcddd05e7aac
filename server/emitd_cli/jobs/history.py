"""`emitd job history`: what happened to a job, over all its attempts."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import grpc

from emitd.v1 import JobTransition, ListJobTransitionsRequest, ListJobTransitionsResponse, LogServiceStub
from emitd_cli.connection import cannot_tell, connect, is_refusal, refused, result_of
from emitd_cli.exit_codes import ExitCode
from emitd_cli.jobs.status_periods import Stay, stay_lines, stays_of
from emitd_cli.terminal.console import is_terminal, make_console
from emitd_cli.terminal.output import say, to_json

CALL_SECONDS = 30.0
#: A server sends no more transitions in one answer.
PAGE_SIZE = 1000


def run(options: argparse.Namespace) -> int:
    """Print the history, the oldest first; return 0. Raises Refused, and CannotTell without a job or a server."""
    is_truncated = False
    transitions: list[JobTransition] = []
    try:
        with connect(options.address) as stub:
            for page in _pages(stub, options):
                is_truncated = is_truncated or page.history_truncated
                if not options.json:
                    transitions += page.transitions
                    continue
                for transition in page.transitions:
                    print(to_json(transition))
    except grpc.RpcError as error:
        end = refused if is_refusal(error) else cannot_tell
        raise end(error, options.address) from error
    if is_truncated:
        say("some of this history exists no more: the server keeps it only for so long")
    if not options.json:
        _show(stays_of(transitions, time.time_ns()), options)
    return ExitCode.GOOD


def _pages(stub: LogServiceStub, options: argparse.Namespace) -> Iterator[ListJobTransitionsResponse]:
    request = ListJobTransitionsRequest(
        job_id=options.job_id, after_revision=options.after_revision, page_size=PAGE_SIZE
    )
    while True:
        call = stub.ListJobTransitions.future(request, timeout=CALL_SECONDS)
        response: ListJobTransitionsResponse = result_of(call, options.address)
        yield response
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token


def _show(stays: Sequence[Stay], options: argparse.Namespace) -> None:
    if not stays:
        say(f"nothing is known of '{options.job_id}' after revision {options.after_revision}")
        return
    if is_terminal(sys.stdout):
        try:
            from emitd_cli.jobs.status_periods_table import draw_stays
        except ImportError:  # the base install brings no rich
            pass
        else:
            # Where FORCE_COLOR asks for a table in a pipe, nothing may be cut off.
            print(draw_stays(stays, make_console().width if sys.stdout.isatty() else None), end="")
            return
    print("\n".join(stay_lines(stays)))
