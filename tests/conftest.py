"""For all tests: how Hypothesis runs, their order, and nothing from the environment that changes them."""

import os
import signal

import pytest
from hypothesis import settings

#: Fixtures for any test.
pytest_plugins = ["support.processes.postgres", "support.processes.server_process"]

#: The seed of the order of the tests in CI.
CI_ORDER = 18

# A loaded machine is no failure; pytest-timeout ends what hangs. In CI the examples are the same in each run, so that a
# change is judged and not its luck; elsewhere each run tries others.
settings.register_profile("emitd", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("emitd")

# They would change the address of a test's server, or of the commands that the test runs, or how they connect.
CREDENTIALS = ("TLS", "CA_FILE", "CERT_FILE", "KEY_FILE", "TOKEN", "TOKEN_FILE")
for name in ("EMITD_LISTEN", "EMITD_ADDRESS", *(f"EMITD_{name}" for name in CREDENTIALS)):
    os.environ.pop(name, None)
# A shell has what it starts in the background ignore it, and so would every command that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let the order be the same in each run too, in CI, if no other is asked for."""
    if "CI" in os.environ and config.getoption("randomly_seed", None) == "default":
        config.option.randomly_seed = CI_ORDER
