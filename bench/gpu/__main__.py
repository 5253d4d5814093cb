"""`python -m bench.gpu`: the same as `python -m bench gpu`."""

from __future__ import annotations

import sys

from bench.gpu.command import main

sys.exit(main(sys.argv[1:]))
