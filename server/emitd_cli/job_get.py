"""`emitd job get`."""

import argparse

import grpc
from google.protobuf import json_format

from emitd.v1 import JOB_STATE_FAILED, GetJobRequest, GetJobResponse
from emitd_cli.connection import connect, describe, say
from emitd_cli.exit_codes import ExitCode
from emitd_cli.job_text import describe_job

__all__ = ["run"]

CALL_SECONDS = 30.0


def run(options: argparse.Namespace) -> int:
    """Print the job; return 0, 1 if it has FAILED, 4 if there is none or no server."""
    try:
        with connect(options.address) as stub:
            response: GetJobResponse = stub.GetJob(GetJobRequest(job_id=options.job_id), timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        say(describe(error, options.address))
        return ExitCode.CANNOT_TELL
    job = response.job
    if options.json:
        print(json_format.MessageToJson(job, indent=None, preserving_proto_field_name=True))
    else:
        print(describe_job(job))
    return ExitCode.BAD if job.status == JOB_STATE_FAILED else ExitCode.GOOD
