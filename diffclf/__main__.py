"""`python -m diffclf`: the command line."""

import sys

from diffclf.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
