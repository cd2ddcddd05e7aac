"""`emitd.records.audit`: ids that no two records share."""

import subprocess
import sys
import threading

from emitd.records import audit as module
from emitd.records.audit import next_record_id


def test_ids_of_one_process_share_a_random_prefix() -> None:
    """Of 96 bits, and the rest counts, so that an id costs little more than a number."""
    first, second = next_record_id(), next_record_id()
    prefix, number = first.split("-")
    assert len(bytes.fromhex(prefix)) == 12
    assert second.startswith(f"{prefix}-")
    assert int(second.split("-")[1], 16) > int(number, 16)


def test_a_renewed_prefix_is_another_one() -> None:
    """It is drawn by chance, not from a clock or the process id, which come again."""
    prefixes = set()
    for _ in range(3):
        module._renew()
        prefixes.add(next_record_id().split("-")[0])
    assert len(prefixes) == 3


def test_threads_share_no_id() -> None:
    """The counter is one step that no thread can come in between."""
    ids: list[list[str]] = [[] for _ in range(4)]

    def draw(found: list[str]) -> None:
        found.extend([next_record_id() for _ in range(5_000)])

    threads = [threading.Thread(target=draw, args=(found,)) for found in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record_id for found in ids for record_id in found}) == 20_000


FORKS = """
import os
from emitd.records.audit import next_record_id
print(next_record_id(), flush=True)
if not os.fork():
    print(next_record_id(), flush=True)
    os._exit(0)
os.wait()
print(next_record_id(), flush=True)
"""


def test_a_forked_child_draws_a_prefix_of_its_own() -> None:
    """Else both would go on counting from the same number, and one's records would pass for the other's retries."""
    process = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    before, in_child, after = (line.split("-") for line in process.stdout.split())
    assert in_child[0] != before[0] == after[0]
    assert before[1] != after[1]
