"""`python -m distill`: the command line where the package is not installed (a Ray job's working directory)."""

import sys

from distill.cli.main import main

sys.exit(main())
