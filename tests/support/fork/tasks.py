"""Tasks for a Celery worker, whose client is made and used when they are loaded: before the pool is forked.

`celery -A support.fork.tasks worker` runs it; `python tasks.py COUNT` sends tasks. FORK_TASKS is the folder that
the queue is in.
"""

import os
import sys
from pathlib import Path

from celery import Celery

from emitd.client import LogClient

FOLDER = Path(os.environ["FORK_TASKS"])

client = LogClient(source="tasks")
app = Celery("fork_tasks", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(FOLDER / "queue"),
        "data_folder_out": str(FOLDER / "queue"),
        "control_folder": str(FOLDER / "control"),
    },
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
)


@app.task(name="work")  # type: ignore[untyped-decorator]
def work(key: str) -> None:
    """Log and audit under the key."""
    client.info("a task", key=key)
    client.audit("task.run", user_id="worker", details={"key": key})


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        work.delay(f"task{number}")
else:
    client.info("loaded", key="loaded")
    client.audit("task.load", user_id="worker", details={"key": "loaded"})
