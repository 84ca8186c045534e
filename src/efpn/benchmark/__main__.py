"""``python -m efpn.benchmark``."""

import sys

from efpn.benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
