"""Children of `multiprocessing`, by spawn and by fork: `python processes.py`. Prints a JSON object.

Each ends by itself, with lines that wait to be sent.
"""

import json
import multiprocessing
import pickle
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor

from emitd.client import LogClient

CHILD_SECONDS = 30.0

#: Of this process; one that is spawned makes its own, one that is forked gets this.
client = LogClient(source="processes", linger=60.0)


def use(key: str) -> str:
    """Log and audit under a key."""
    client.info("a child's", key=key)
    client.audit("process.child", user_id="child", details={"key": key})
    return key


def main() -> None:
    use("parent")
    keys, errors = ["parent"], []
    for method in ("spawn", "fork"):
        context = multiprocessing.get_context(method)
        processes = [context.Process(target=use, args=(f"{method}{number}",)) for number in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(CHILD_SECONDS)
        errors += [f"{method}: {process.exitcode}" for process in processes if process.exitcode != 0]
        keys += [f"{method}{number}" for number in range(2)]
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            keys += executor.map(use, [f"{method}-executor{number}" for number in range(4)])
        with context.Pool(2) as pool:
            keys += pool.map(use, [f"{method}-pool{number}" for number in range(4)])
            pool.close()
            pool.join()
    try:
        pickle.dumps(client)
        refused = ""
    except TypeError as error:
        refused = str(error)
    json.dump({"keys": keys, "errors": errors, "refused": refused}, sys.stdout)


if __name__ == "__main__":
    warnings.filterwarnings("error", category=DeprecationWarning)  # 3.12 has one for each fork
    main()
