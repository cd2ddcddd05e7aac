"""For all tests: how Hypothesis runs, and no settings from the developer's environment."""

import os

from hypothesis import settings

#: Fixtures for any test.
pytest_plugins = ["support.processes.postgres", "support.processes.server_process"]

# A loaded machine is no failure; pytest-timeout ends what hangs. In CI the examples are the same in each run, so that a
# change is judged and not its luck; elsewhere each run tries others.
settings.register_profile("emitd", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("emitd")

# They would change the address of a test's server, or of the commands that the test runs, or how they connect.
CREDENTIALS = ("TLS", "CA_FILE", "CERT_FILE", "KEY_FILE", "TOKEN", "TOKEN_FILE")
for name in ("EMITD_LISTEN", "EMITD_ADDRESS", *(f"EMITD_{name}" for name in CREDENTIALS)):
    os.environ.pop(name, None)
