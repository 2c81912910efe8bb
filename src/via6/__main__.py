"""`python -m via6` is the `via6` command."""

import sys

from via6.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
