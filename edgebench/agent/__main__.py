"""`python -m edgebench.agent round|predict|worker ...`."""

import sys

from edgebench.agent.main import main

sys.exit(main(sys.argv[1:]))
