"""Several calibrations of one model as one.

Counts, extremes, means and second moments merge as if all had been measured in one run (moments to
the rounding of f32). Rows merge as a uniform sample of all that were seen: how many come from each
file is drawn as drawing without replacement would have it. Percentiles are those of the mixture of
the files' distributions, each taken as linear between its own percentiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from thermoq.calibration.file import (
    Calibration,
    Description,
    read_calibration,
    write_calibration,
)
from thermoq.calibration.noise import most_different
from thermoq.calibration.statistics import CalibratedInput, Floats
from thermoq.checkpoint.untrusted import bad_file, shown
from thermoq.errors import UsageError

# What files must agree on to be merged, and what to call it.
_SHARED = {
    "components": "model",
    "schedule_kind": "noise schedule",
    "num_timesteps": "number of timesteps",
    "bin_starts": "bins",
    "percentile_levels": "percentile levels",
}


def merge(
    paths: Sequence[Path | str], output: Path | str, *, seed: int = 0, replace: bool = False
) -> Calibration:
    """Write the calibrations at `paths` to `output` as one and return it.

    Raises UsageError for fewer than two files or one that is named twice, InputError for a file
    that cannot be read or is of another model, schedule or number of bins than the first.
    """
    sources = [Path(path) for path in paths]
    if len(sources) < 2:
        raise UsageError(f"expected two or more calibration files to merge, got {len(sources)}")
    if len({path.resolve() for path in sources}) < len(sources):
        raise UsageError("expected different calibration files to merge, got one twice")
    read = [read_calibration(path) for path in sources]
    noted = next((i for i, one in enumerate(read) if one.description.noise_levels), 0)
    for path, calibration in zip(sources[1:], read[1:], strict=True):
        _check_alike(sources[0], read[0].description, path, calibration)
        _check_noise(sources[noted], read[noted].description, path, calibration)
    merged = merged_calibration(read, seed=seed)
    write_calibration(Path(output), merged, replace=replace)
    return merged


def merged_calibration(calibrations: Sequence[Calibration], *, seed: int = 0) -> Calibration:
    """Return calibrations of one model and schedule, in the same bins, as one."""
    layers, sources = _layers_and_inputs(calibrations)
    descriptions = [calibration.description for calibration in calibrations]
    first = descriptions[0]
    rows_per_bin = max(description.rows_per_bin for description in descriptions)
    inputs = {
        name: merged_input(parts, first.percentile_levels, rows_per_bin, seed, name)
        for name, parts in sources.items()
    }
    samples = [description.num_samples for description in descriptions]
    data = sum(d.num_samples * d.data_share for d in descriptions)
    update = {
        "sampler": _joined([description.sampler for description in descriptions]),
        "steps": max(description.steps for description in descriptions),
        "guidance": _only([description.guidance for description in descriptions]),
        "seed": seed,
        "num_samples": sum(samples),
        "rows_per_bin": rows_per_bin,
        "data_share": min(1.0, data / sum(samples)),
        "noise_levels": next((d.noise_levels for d in descriptions if d.noise_levels), None),
        "timestep_table": next((d.timestep_table for d in descriptions if d.timestep_table), None),
        "schedule": next((d.schedule for d in descriptions if d.schedule), ""),
        "details": {"merged_from": len(calibrations)},
        "layers": layers,
        "not_reached": tuple(
            sorted({n for d in descriptions for n in d.not_reached} - layers.keys())
        ),
    }
    return Calibration(Description(**{**first.model_dump(), **update}), inputs)


def merged_input(
    parts: Sequence[CalibratedInput],
    levels: tuple[float, ...],
    rows_per_bin: int,
    seed: int,
    name: str,
) -> CalibratedInput:
    """Return the statistics of what all of `parts` have seen; `levels` are those that they have."""
    counts = np.stack([part.count for part in parts])
    total = counts.sum(axis=0)
    shares = counts / np.maximum(total, 1)
    seen = counts > 0
    minimum = np.where(seen, np.stack([part.minimum for part in parts]), np.inf).min(axis=0)
    maximum = np.where(seen, np.stack([part.maximum for part in parts]), -np.inf).max(axis=0)
    visited = total > 0
    return CalibratedInput(
        count=total,
        minimum=np.where(visited, minimum, 0).astype(np.float32),
        maximum=np.where(visited, maximum, 0).astype(np.float32),
        percentiles=_percentiles(parts, shares, levels),
        mean=_mixed(shares, [part.mean for part in parts]),
        second_moment=_mixed(shares, [part.second_moment for part in parts]),
        rows=_rows(parts, counts, min(rows_per_bin, int(total.max())), seed, name),
    )


def _layers_and_inputs(
    calibrations: Sequence[Calibration],
) -> tuple[dict[str, str], dict[str, list[CalibratedInput]]]:
    """Group layers by the inputs that they take in all files; an input is named by its first layer.

    Layers share an input only where they do in every file.
    """
    names = sorted({layer for c in calibrations for layer in c.description.layers})
    layers: dict[str, str] = {}
    sources: dict[str, list[CalibratedInput]] = {}
    first_with: dict[tuple[str | None, ...], str] = {}
    for layer in names:
        taken = tuple(c.description.layers.get(layer) for c in calibrations)
        layers[layer] = first_with.setdefault(taken, layer)
        found = (calibration.input_of(layer) for calibration in calibrations)
        sources.setdefault(layers[layer], [part for part in found if part is not None])
    return layers, sources


def _mixed(shares: Floats, moments: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    weighted = (
        share[:, None] * part.astype(np.float64)
        for share, part in zip(shares, moments, strict=True)
    )
    return np.array(sum(weighted), np.float32)


def _percentiles(
    parts: Sequence[CalibratedInput], shares: Floats, levels: tuple[float, ...]
) -> NDArray[np.float32]:
    """Invert the mixture of the parts' distributions at `levels` percent, in each bin."""
    wanted = np.asarray(levels) / 100.0
    known = np.concatenate([[0.0], wanted, [1.0]])
    result = np.zeros((shares.shape[1], len(levels)), np.float32)
    for bin in range(shares.shape[1]):
        values = [
            np.concatenate([[part.minimum[bin]], part.percentiles[bin], [part.maximum[bin]]])
            for part in parts
        ]
        points = np.unique(np.concatenate(values)).astype(np.float64)
        below = np.zeros((len(points), 2))
        for share, value in zip(shares[:, bin], values, strict=True):
            if share > 0:
                below += share * _shares_below(points, value.astype(np.float64), known)
        if shares[:, bin].any():
            result[bin] = np.interp(wanted, below.reshape(-1), np.repeat(points, 2))
    return result


def _shares_below(points: Floats, values: Floats, known: Floats) -> Floats:
    """Return the share of a distribution below each point, and up to it, [points, 2].

    It is linear between `values`; where several percentiles are one value, a step.
    """
    rises = np.diff(values) > 0
    both = []
    for which in (np.append(True, rises), np.append(rises, True)):
        inside = np.interp(points, values[which], known[which])
        inside = np.where(points < values[0], 0.0, inside)
        both.append(np.where(points > values[-1], 1.0, inside))
    return np.stack(both, axis=1)


def _rows(
    parts: Sequence[CalibratedInput],
    counts: NDArray[np.int64],
    capacity: int,
    seed: int,
    name: str,
) -> NDArray[np.float16] | NDArray[np.float32]:
    """Draw a uniform sample of all rows that were seen from the parts' own samples."""
    dtype = np.result_type(*(part.rows.dtype for part in parts))
    bins, columns = counts.shape[1], parts[0].num_columns
    rows = np.zeros((bins, capacity, columns), dtype)
    for bin in range(bins):
        digest = xxhash.xxh3_128_intdigest(f"merge:{seed}:{bin}:{name}".encode())
        drawn = _drawn(parts, counts[:, bin], bin, capacity, np.random.default_rng(digest))
        rows[bin, : len(drawn)] = drawn
    return rows


def _drawn(
    parts: Sequence[CalibratedInput],
    counts: NDArray[np.int64],
    bin: int,
    capacity: int,
    random: np.random.Generator,
) -> NDArray[np.floating]:
    kept = np.array([part.num_rows[bin] for part in parts])
    total = min(capacity, int(counts.sum()))
    # A part that keeps fewer rows than the draw asks of it gives all, and others fill in.
    wanted = np.minimum(random.multivariate_hypergeometric(counts, total), kept)
    while wanted.sum() < min(total, kept.sum()):
        wanted[np.argmax(kept - wanted)] += 1
    chosen = [
        part.rows[bin, random.permutation(num_kept)[:number]]
        for part, num_kept, number in zip(parts, kept, wanted, strict=True)
    ]
    return np.array(random.permutation(np.concatenate(chosen)))


def _check_alike(
    first_path: Path, first: Description, path: Path, calibration: Calibration
) -> None:
    other = calibration.description
    for key, what in _SHARED.items():
        expected, got = getattr(first, key), getattr(other, key)
        if expected != got:
            raise bad_file(
                path,
                f"expected the {what} of {first_path}, {_brief(expected)}, got {_brief(got)}",
            )


def _check_noise(
    first_path: Path, first: Description, path: Path, calibration: Calibration
) -> None:
    """Refuse another noise schedule of as many timesteps; files that noted none go with all."""
    expected, got = first.noise_levels, calibration.description.noise_levels
    if expected and got and most_different(expected, got) is not None:
        raise bad_file(
            path,
            f"expected the noise schedule of {first_path}, {shown(first.schedule)}, got "
            f"{shown(calibration.description.schedule)}",
        )


def _brief(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name or 'root'} {part.fingerprint}" for name, part in value.items())
    return f"{len(value)} of them" if isinstance(value, tuple) else shown(value)


def _joined(texts: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _only(values: Sequence[float | None]) -> float | None:
    """Return what all agree on, or None."""
    return values[0] if len(set(values)) == 1 else None
