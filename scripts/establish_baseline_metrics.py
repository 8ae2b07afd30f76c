#!/usr/bin/env python3
"""Establish the baseline metrics of a model: what `thermoq baseline` does, with the same flags.

python scripts/establish_baseline_metrics.py --model dream-7b/ --output dream-7b-int2-baseline/ \
    --bit-width 2 --num-time-groups 4 \
    --report baseline_metrics.json --html-report baseline_metrics.html
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run `thermoq baseline` with this script's arguments."""
    try:
        from thermoq.cli.app import main as thermoq
    except ModuleNotFoundError as error:
        sys.exit(f"error: cannot import {error.name}; install thermoq first: pip install -e .")
    sys.argv[1:1] = ["baseline"]
    thermoq()


if __name__ == "__main__":
    main()
