"""What all tests share: no deadline for an example, and no settings from the developer's own environment."""

import os

from hypothesis import settings

#: Fixtures for any test.
pytest_plugins = ["support.processes.postgres"]

# A loaded machine is no failure; pytest-timeout ends what hangs.
settings.register_profile("emitd", deadline=None, print_blob=True)
settings.load_profile("emitd")

# They would send a test's server, or the commands that it runs, to an address of their own.
for name in ("EMITD_LISTEN", "EMITD_ADDRESS"):
    os.environ.pop(name, None)
