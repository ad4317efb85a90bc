"""Entry point of `python -m ser_ft.cli`: the `ser-ft` command."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
