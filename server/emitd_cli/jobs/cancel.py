"""`emitd job cancel`: asks a job to stop by itself."""

import argparse

import grpc

from emitd.v1 import RequestCancelRequest, RequestCancelResponse
from emitd_cli.connection import cannot_tell, connect, is_refusal, refused, result_of
from emitd_cli.exit_codes import ExitCode
from emitd_cli.jobs.text import has_ended, job_line, status_name
from emitd_cli.terminal.output import print_result, say, to_json

CALL_SECONDS = 30.0


def run(options: argparse.Namespace) -> int:
    """Ask, and print the job; return 0. Raises Refused, and CannotTell if there is no such job, or no server."""
    request = RequestCancelRequest(job_id=options.job_id, reason=options.reason)
    try:
        with connect(options.address) as stub:
            call = stub.RequestCancel.future(request, timeout=CALL_SECONDS)
            response: RequestCancelResponse = result_of(call, options.address)
    except grpc.RpcError as error:
        end = refused if is_refusal(error) else cannot_tell
        raise end(error, options.address) from error
    job = response.job
    if has_ended(job):
        say(f"'{job.job_id}' is {status_name(job.status)} already; there is nothing to cancel")
    print_result(to_json(job) if options.json else job_line(job))
    return ExitCode.GOOD
