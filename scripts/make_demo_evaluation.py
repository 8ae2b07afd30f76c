"""Make the evaluations of the demo's variants that `thermoq demo` shows where there is no torch.

The same variants, quantized as there without torch (no output correction), are evaluated on as many
samples as there with torch, and judged as `thermoq evaluate` does by default. Needs
`pip install thermoq[torch]`; takes about ten minutes on 2 cores. To be run again whenever codes or
time parameters of the demo change.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from thermoq.comparison.sources import source_of_directory
from thermoq.demonstration import (
    EVALUATION_FILE,
    LIVE_SAMPLES,
    evaluate_variants,
    quantize_variants,
)
from thermoq.evaluation.settings import DEFAULT_JUDGED
from thermoq.shipped_evaluation import ShippedEvaluations, ShippedVariant, digest_of, figures_of

PACKAGE = Path(__file__).parents[1] / "python" / "thermoq"
LARGEST_BYTES = 1_000_000


def main() -> int:
    """Evaluate; return 1 if the file is too large to ship."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=PACKAGE / EVALUATION_FILE)
    parser.add_argument("--samples", type=int, default=LIVE_SAMPLES)
    parser.add_argument("--judged", type=int, default=DEFAULT_JUDGED)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        variants = quantize_variants(Path(folder) / "demo", output_correction=False)
        variants = evaluate_variants(
            variants, samples=arguments.samples, judged=arguments.judged, threads=2
        )
        found = {}
        for one in variants:
            codes = source_of_directory(one.checkpoint, one.report).codes or {}
            assert one.report.evaluation is not None
            found[one.name] = ShippedVariant(
                bit_width=one.report.bit_width,
                num_time_groups=one.report.num_time_groups,
                codes=digest_of(codes),
                figures=figures_of(one.report),
                evaluation=one.report.evaluation,
            )
            print(f"{one.name}: {found[one.name].codes}")
    shipped = ShippedEvaluations(command="python scripts/make_demo_evaluation.py", variants=found)
    arguments.output.write_text(shipped.model_dump_json() + "\n", encoding="utf-8")
    nbytes = arguments.output.stat().st_size
    print(f"{arguments.output}: {nbytes} bytes")
    return 0 if nbytes <= LARGEST_BYTES else 1


if __name__ == "__main__":
    raise SystemExit(main())
