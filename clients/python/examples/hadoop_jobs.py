"""Turn the log of a Hadoop application master (MapReduce on YARN) into reports on jobs.

  emitd job                    type                     what it is
  job_1445144423722_0020       mapreduce.job            the whole MapReduce job
  attempt_..._m_000003_0       mapreduce.task_attempt   each attempt of each of its tasks

Attempts are jobs of their own, because two attempts of one task may run at the same time (speculation) and the
first to end wins; under `labels` each names its task and its job. An attempt of emitd's is an attempt of the
application master: a second one starts the job afresh, as Hadoop does.

  Hadoop's state                                       emitd's
  NEW, INITED, UNASSIGNED, ASSIGNED                    QUEUED
  SUCCEEDED                                            COMPLETED
  FAILED, KILLED, ERROR                                FAILED
  all others (RUNNING, COMMIT_PENDING, cleanups, ...)  RUNNING

Hadoop's own word stands under `details.hadoop_state`, beside the container and the node. An attempt's progress is what
the log says (`Progress of TaskAttempt ... is : 0.42`). The job's is the mean over its tasks of their best attempt that has
not failed, reported when it reaches another whole percent. The reason of a failure is the class of the exception in
the first diagnostics report, or Hadoop's state; the message is that report. A log that ends before the job does
leaves the job RUNNING.

The log's times have no zone: say which with --timezone. Running the program twice over one log changes nothing.

Examples:
  python hadoop_jobs.py syslog
  tail -n +1 -F syslog | python hadoop_jobs.py - --batch-size 1
  python hadoop_jobs.py syslog --timezone America/Los_Angeles --dry-run

"""

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JobState,
)

__all__ = ["HadoopLog", "main"]

JOB_TYPE, ATTEMPT_TYPE = "mapreduce.job", "mapreduce.task_attempt"
CALL_SECONDS = 30.0

#: All other states of Hadoop's are RUNNING.
_STATES: dict[str, JobState] = {
    "NEW": JOB_STATE_QUEUED,
    "INITED": JOB_STATE_QUEUED,
    "UNASSIGNED": JOB_STATE_QUEUED,
    "ASSIGNED": JOB_STATE_QUEUED,
    "SUCCEEDED": JOB_STATE_COMPLETED,
    "FAILED": JOB_STATE_FAILED,
    "KILLED": JOB_STATE_FAILED,
    "ERROR": JOB_STATE_FAILED,
}
