"""Merged calibrations: exact where the statistic allows it, a uniform sample where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import example_calibration, statistics_of
from thermoq.calibration.file import read_calibration, write_calibration
from thermoq.calibration.merge import merge, merged_calibration, merged_input
from thermoq.calibration.noise import noise_levels
from thermoq.calibration.statistics import PERCENTILE_LEVELS, CalibratedInput, InputStatistics
from thermoq.errors import InputError, UsageError
from thermoq.schedule import schedule_for


def parts_and_whole() -> tuple[list[CalibratedInput], CalibratedInput]:
    draw = np.random.default_rng(3)
    first = {0: draw.normal(2, 1, (400, 5)), 1: draw.normal(0, 9, (7, 5))}
    second = {0: draw.normal(-3, 4, (1200, 5)), 2: draw.normal(0, 1, (50, 5))}
    both = {bin: [part[bin] for part in (first, second) if bin in part] for bin in (0, 1, 2)}
    whole = {bin: np.concatenate(rows).astype(np.float32) for bin, rows in both.items()}
    narrow = [{b: rows.astype(np.float32) for b, rows in p.items()} for p in (first, second)]
    parts = [statistics_of(rows, num_bins=4, seed=i) for i, rows in enumerate(narrow)]
    return parts, statistics_of(whole, num_bins=4)


def test_counts_extremes_and_moments_merge_exactly() -> None:
    parts, whole = parts_and_whole()
    merged = merged_input(parts, PERCENTILE_LEVELS, 16, 0, "layer")
    for name in ("count", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    for name in ("mean", "second_moment"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-5)
    assert not merged.count[3]
    assert not merged.percentiles[3].any()


def test_percentiles_are_those_of_the_mixture() -> None:
    parts, whole = parts_and_whole()
    merged = merged_input(parts, PERCENTILE_LEVELS, 16, 0, "layer")
    spread = whole.maximum - whole.minimum
    off = np.abs(merged.percentiles - whole.percentiles) / np.maximum(spread, 1)[:, None]
    assert off.max() < 0.07
    # What one file alone has seen is unchanged.
    np.testing.assert_allclose(merged.percentiles[2], parts[1].percentiles[2], rtol=1e-5)
    assert np.all(np.diff(merged.percentiles, axis=1) >= 0)


def test_percentiles_of_one_value_stay_that_value() -> None:
    rows = np.full((10, 2), 3.0, np.float32)
    parts = [statistics_of({0: rows}, num_bins=1), statistics_of({0: rows}, num_bins=1)]
    assert (merged_input(parts, PERCENTILE_LEVELS, 16, 0, "layer").percentiles == 3).all()
    zeros = statistics_of({0: rows * 0}, num_bins=1)
    half = merged_input([zeros, parts[0]], PERCENTILE_LEVELS, 16, 0, "layer").percentiles[0]
    assert half[:3].tolist() == [0, 0, 0]
    assert half[-3:].tolist() == [3, 3, 3]


def test_rows_are_drawn_as_from_all_that_were_seen() -> None:
    """A part's share of the sample is its share of the rows: 1 in 5 here."""
    few = statistics_of({0: np.zeros((20, 1), np.float32)}, num_bins=1)
    many = statistics_of({0: np.ones((80, 1), np.float32)}, num_bins=1)
    shares = []
    for seed in range(200):
        rows = merged_input([few, many], PERCENTILE_LEVELS, 16, seed, "layer").rows
        assert rows.shape == (1, 16, 1)
        shares.append(float(rows.mean()))
    assert 0.77 < np.mean(shares) < 0.83
    assert len(set(shares)) > 3


def test_few_rows_are_all_kept() -> None:
    one = statistics_of({0: np.array([[1.0], [2.0]], np.float32)}, num_bins=1)
    other = statistics_of({0: np.array([[1e6]], np.float32)}, num_bins=1)
    merged = merged_input([one, other], PERCENTILE_LEVELS, 16, 0, "layer")
    assert sorted(merged.sample()[:, 0].tolist()) == [1.0, 2.0, 1e6]
    assert merged.num_rows.tolist() == [3]


def test_layers_of_several_files(tmp_path: Path) -> None:
    """Layers share an input in the result where they do in both files."""
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)
    source = statistics_of({0: rows})
    shared = example_calibration({"a": source}, layers={"a": "a", "b": "a", "c": "a"})
    apart = example_calibration(
        {"a": source, "b": source}, layers={"a": "a", "b": "b", "c": "b"}, seed=1
    )
    merged = merged_calibration([shared, apart])
    assert merged.description.layers == {"a": "a", "b": "b", "c": "b"}
    assert merged.description.num_samples == 16
    alone = example_calibration({"d": source}, not_reached=("a", "e"), data_share=0.5)
    merged = merged_calibration([apart, alone])
    assert merged.description.layers["d"] == "d"
    assert merged.description.not_reached == ("e",)
    assert merged.description.data_share == 0.25
    assert merged.inputs["d"].count.sum() == 4
    assert merged.inputs["a"].count.sum() == 4


def test_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for seed, path in enumerate(paths):
        write_calibration(path, example_calibration(seed=seed))
    merge(paths, tmp_path / "one")
    merge(paths, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_calibration(tmp_path / "one").inputs["layer"].count.sum() == 1600
    with pytest.raises(InputError, match="already exists"):
        merge(paths, tmp_path / "one")
    merge(paths, tmp_path / "one", replace=True)
    merge([*paths, tmp_path / "one"], tmp_path / "one", replace=True)  # onto one of its sources
    assert read_calibration(tmp_path / "one").inputs["layer"].count.sum() == 3200


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"components": {"": {"fingerprint": "xxh3-128:1"}}},
         "expected the model of {first}, root xxh3-128:0, got root xxh3-128:1"),
        ({"schedule_kind": "masked"},
         "expected the noise schedule of {first}, 'gaussian', got 'masked'"),
        ({"num_timesteps": 500, "bin_starts": (499.0,)},
         "expected the number of timesteps of {first}, 1000, got 500"),
        ({"percentile_levels": (1.0, 99.0)},
         "expected the percentile levels of {first}, 7 of them, got 2 of them"),
    ],
)  # fmt: skip
def test_files_of_other_runs_are_refused(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write_calibration(first, example_calibration())
    other = example_calibration(**given)
    empty = InputStatistics(3, other.num_bins, 1, 0, "layer")
    source = empty.finish(other.description.percentile_levels)
    other = replace(other, inputs={"layer": source})
    write_calibration(second, other)
    with pytest.raises(InputError) as raised:
        merge([first, second], tmp_path / "c")
    assert str(raised.value) == f"{second}: {message.format(first=first)}"
    assert not (tmp_path / "c").exists()


def test_files_over_other_noise(tmp_path: Path) -> None:
    """Of as many timesteps; a file that does not say goes with all, and the result says."""
    noted = {
        name: {"noise_levels": noise_levels(schedule), "schedule": schedule.description}
        for name, schedule in (
            ("linear", schedule_for({"beta_schedule": "linear"}, None)),
            ("cosine", schedule_for({"beta_schedule": "squaredcos_cap_v2"}, None)),
        )
    }
    for name in ("linear", "cosine", "old"):
        write_calibration(tmp_path / name, example_calibration(**noted.get(name, {})))
    (tmp_path / "again").write_bytes((tmp_path / "linear").read_bytes())
    paths = {name: tmp_path / name for name in ("linear", "cosine", "old", "again")}
    for names in (("linear", "cosine"), ("old", "linear", "cosine")):
        with pytest.raises(InputError) as raised:
            merge([paths[name] for name in names], tmp_path / "both")
        assert str(raised.value) == (
            f"{paths['cosine']}: expected the noise schedule of {paths['linear']}, 'linear "
            "betas 0.0001 to 0.02, T = 1000 (scheduler config)', got 'squaredcos_cap_v2 betas, "
            "T = 1000 (scheduler config)'"
        )
    for names in (("linear", "again"), ("old", "linear")):
        merge([paths[name] for name in names], tmp_path / "both", replace=True)
        found = read_calibration(tmp_path / "both").description
        assert found.noise_levels == noted["linear"]["noise_levels"]
        assert found.schedule.startswith("linear betas")


def test_fewer_than_two_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two or more calibration files to merge, got 1"):
        merge([tmp_path / "a"], tmp_path / "c")
    with pytest.raises(UsageError, match="got one twice"):
        merge([tmp_path / "a", tmp_path / "." / "a"], tmp_path / "c")
