"""`in_order`: work spread over processes, in processes of their own, beside whose threads forking is safe."""

import subprocess
import sys

PROLOGUE = "import os, signal, sys\nfrom emitd_handlers.audit.verify.workers import in_order\n"


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROLOGUE + script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def test_results_come_in_the_order_of_the_tasks() -> None:
    """However many workers there are, and whether or not there are as many tasks."""
    script = (
        "for workers in (1, 2, 3):\n"
        "    for count in (0, 1, 2, 50):\n"
        "        assert list(in_order(lambda n: n * n, range(count), workers)) == [n * n for n in range(count)]\n"
        "print(len(set(in_order(lambda n: os.getpid(), range(9), 3))))\n"
    )
    assert run(script) == "3\n"


def test_large_results() -> None:
    """Workers wait until their results are taken."""
    script = "print(sum(map(len, in_order(lambda n: bytes(n), [3_000_000] * 9, 2))))"
    assert run(script) == "27000000\n"


def test_an_error_of_a_worker() -> None:
    """It is raised where the results are taken."""
    script = (
        "try: list(in_order(lambda n: 1 / n, [2, 1, 0, 1], 2))\nexcept ZeroDivisionError: print('raised')"
    )
    assert run(script) == "raised\n"


def test_a_killed_worker() -> None:
    """It does not let anybody wait for ever."""
    script = (
        "def job(n):\n"
        "    if n == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return n\n"
        "try: list(in_order(job, range(20), 2))\n"
        "except ChildProcessError: print('raised')"
    )
    assert run(script) == "raised\n"


def test_no_worker_outlives_its_use() -> None:
    """Whoever stops in the middle leaves no process behind."""
    script = (
        "results = in_order(lambda n: os.getpid(), range(100), 2)\n"
        "pids = {next(results), next(results)}\n"
        "results.close()\n"
        "import multiprocessing\n"
        "print(multiprocessing.active_children())"
    )
    assert run(script) == "[]\n"
