"""`python -m mos` is the command `mos`."""
import sys

from mos.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
