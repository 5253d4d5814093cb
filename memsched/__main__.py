"""`python -m memsched`: the same as the command `memsched`."""

import sys

from memsched.cli import main

if __name__ == "__main__":
    sys.exit(main())
