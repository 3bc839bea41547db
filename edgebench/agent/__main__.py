"""`python -m edgebench.agent JOB.json RESULT.json`."""

import sys

from edgebench.agent.main import main

sys.exit(main(sys.argv[1:]))
