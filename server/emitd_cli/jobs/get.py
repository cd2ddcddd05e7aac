"""`emitd job get`."""

import argparse

import grpc

from emitd.v1 import JOB_STATE_FAILED, GetJobRequest, GetJobResponse
from emitd_cli.connection import cannot_tell, connect, result_of
from emitd_cli.exit_codes import ExitCode
from emitd_cli.jobs.text import describe_job
from emitd_cli.terminal.output import print_result, to_json

CALL_SECONDS = 30.0


def run(options: argparse.Namespace) -> int:
    """Print the job; return 0, or 1 if it has FAILED. Raises CannotTell if there is none, or no server."""
    try:
        with connect(options.address) as stub:
            call = stub.GetJob.future(GetJobRequest(job_id=options.job_id), timeout=CALL_SECONDS)
            response: GetJobResponse = result_of(call, options.address)
    except grpc.RpcError as error:
        raise cannot_tell(error, options.address) from error
    print_result(to_json(response.job) if options.json else describe_job(response.job))
    return ExitCode.BAD if response.job.status == JOB_STATE_FAILED else ExitCode.GOOD
