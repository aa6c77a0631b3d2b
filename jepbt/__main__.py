"""`python -m jepbt` is `jepbt`."""

import sys

from jepbt.cli import main

if __name__ == "__main__":
    sys.exit(main())
