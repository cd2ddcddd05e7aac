"""`python -m emitd_cli` is `emitd`."""

import sys

from emitd_cli.main import main

sys.exit(main())
