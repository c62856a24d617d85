"""`python -m tfmtl`, which is the command `tfmtl`."""

import sys

from tfmtl.command import main

if __name__ == "__main__":
    sys.exit(main())
