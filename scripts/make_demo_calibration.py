"""Make the calibration of the demo's model that `thermoq demo` uses without torch.

The same as `thermoq calibrate` with its defaults, but for the rows: fewer, so that the file is
small enough to ship. The bytes depend on torch's version and the CPU. Needs `pip install
thermoq[torch]`; takes a minute on 2 cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from thermoq.calibration.run import calibrate
from thermoq.demonstration import CALIBRATION_FILE, MODEL_FOLDER

PACKAGE = Path(__file__).parents[1] / "python" / "thermoq"
ROWS_PER_BIN = 14
LARGEST_BYTES = 5_000_000


def main() -> int:
    """Calibrate; return 1 if the file is too large to ship."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=PACKAGE / CALIBRATION_FILE)
    parser.add_argument("--seed", type=int, default=0, help="of the samples and the rows")
    arguments = parser.parse_args()
    calibrate(
        PACKAGE / MODEL_FOLDER,
        arguments.output,
        rows=ROWS_PER_BIN,
        seed=arguments.seed,
        threads=2,
        overwrite=True,
    )
    nbytes = arguments.output.stat().st_size
    print(f"{arguments.output}: {nbytes} bytes")
    return 0 if nbytes <= LARGEST_BYTES else 1


if __name__ == "__main__":
    raise SystemExit(main())
