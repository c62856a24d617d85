"""`python -m tfmtl.serving.server`, which is `tfmtl serve`."""

import sys

from tfmtl.serving.server.command import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m tfmtl.serving.server"))
