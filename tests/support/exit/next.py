"""The next program with the same spool: `python next.py SPOOL ADDRESS...`. Ends when all that was left is sent."""

import sys
import time
from pathlib import Path

from emitd.client import LogClient

DELIVERY_SECONDS = 20.0

if __name__ == "__main__":
    folder, *addresses = sys.argv[1:]
    clients = [LogClient(address, source="next", spool=folder) for address in addresses]
    for client in clients:
        client.info("next")
    give_up_at = time.monotonic() + DELIVERY_SECONDS
    while list(Path(folder).glob("*.db")):
        assert time.monotonic() < give_up_at, [dict(client.stats()) for client in clients]
        time.sleep(0.05)
