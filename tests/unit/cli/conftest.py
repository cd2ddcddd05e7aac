"""For tests of commands in this process: each begins as a process does that has done nothing before."""

import pytest

from emitd.transport import channel
from emitd_cli.terminal.output import set_json


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    set_json(as_json=False)
    # Otherwise grpc shares the pause after a failed connection with all channels to the same port, and the system gives
    # the ports of servers that have gone to new ones.
    monkeypatch.setattr(channel, "OPTIONS", (*channel.OPTIONS, ("grpc.use_local_subchannel_pool", 1)))
