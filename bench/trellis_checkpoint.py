#!/usr/bin/env python3
"""How fast and how large is `thermoq quantize --encoding trellis`, on 1 G parameters in 4 shards?

As in whole_process.py, at effort 1 (L = 8), --runs times.
"""

from __future__ import annotations

import shutil
from statistics import median

from measuring import Options, Result, main, note, summarize
from whole_process import TWO_BITS, read, run, synthetic_checkpoint, tensor_bytes

FLAGS = ("--encoding", "trellis", "--effort", "1")
MOST_S = 40.0


def measure(options: Options) -> list[Result]:
    """Seconds from start to end, and memory."""
    model = synthetic_checkpoint(options.workdir)
    shards = sorted(model.glob("*.safetensors"))
    tensors = [nbytes for shard in shards for nbytes in tensor_bytes(shard)]
    weights = sum(tensors) / 2
    read(shards)  # warms the cache
    output = options.workdir / "out"
    runs = []
    for number in range(options.runs):
        note(f"trellis: {weights / 1e6:,.0f} M weights, run {number + 1} of {options.runs}")
        runs.append(run(model, output, "quantize", *TWO_BITS, *FLAGS))
    shutil.rmtree(output)
    elapsed_s = median(one.elapsed_s for one in runs)
    return [
        summarize(
            f"L=8, {weights / 1e6:,.0f} M weights end to end, two threads",
            [one.elapsed_s for one in runs],
            "s",
            target=MOST_S,
            at_least=False,
            detail=(
                f"{weights / elapsed_s / 1e6:.1f} M weights/s, "
                f"{median(one.times_s['quantize_s'] for one in runs):.2f} s in the core"
            ),
        ),
        summarize(
            "the same, peak resident memory",
            [one.peak_bytes / 1e6 for one in runs],
            "MB",
            target=(2 * max(tensors) + 250e6) / 1e6,
            at_least=False,
            detail=f"largest tensor {max(tensors) / 1e6:.0f} MB",
        ),
    ]


if __name__ == "__main__":
    main(measure, __doc__)
