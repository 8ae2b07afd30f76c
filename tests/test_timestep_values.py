"""What denoisers are handed as timesteps, and the tables that calibrations note of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from thermoq.errors import UsageError
from thermoq.timestep_values import MAX_PAIRS, TimestepArgument, TimestepValues, table_of


class Tensorish:
    """As much of a tensor as is looked at."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def detach(self) -> Tensorish:
        return self

    def tolist(self) -> Any:
        return self._values


def denoise(sample: Any, timestep: Any = None, labels: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((0, 5), {}, [5.0]),
        ((0,), {"timestep": 2.5}, [2.5]),
        ((0,), {"timestep": Tensorish(7)}, [7.0]),
        ((0, Tensorish([1, 2])), {}, [1.0, 2.0]),
        ((0, [3]), {}, [3.0]),
        ((0,), {"timestep": Tensorish([[0.0, 9.0], [4.0, 4.0]])}, [9.0, 4.0]),
        ((0,), {}, None),
        ((0, None), {"labels": 3}, None),
    ],
)
def test_the_timestep_is_found_by_name_and_place(args: Any, kwargs: Any, expected: Any) -> None:
    assert TimestepArgument(denoise).values(args, kwargs) == expected


@pytest.mark.parametrize("name", ["timesteps", "t"])
def test_other_names(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def forward(x, {name}, cap=None): pass", scope)
    argument = TimestepArgument(scope["forward"])
    assert argument.values((0, 0.25), {}) == [0.25]
    assert TimestepArgument(lambda x: x).values((0,), {"timestep": 3}) is None


def test_gaussian_values_are_timesteps() -> None:
    values = TimestepValues("gaussian", 1000)
    assert values.timesteps([0, 0.5, 999, 999.75]) == [0.0, 0.5, 999.0, 999.0]
    for wrong in (-0.1, 1000.0, float("nan")):
        with pytest.raises(UsageError, match=r"timestep in \[0, 1000\), got (-0.1|1000|nan)"):
            values.timesteps([5, wrong])


def test_levels_of_flow_matching() -> None:
    values = TimestepValues("flow_matching", 1000)
    assert values.timesteps([1.0, 0.5, 0.0]) == [999.0, 499.5, 0.0]
    assert values.timesteps([1000.0, 500.0]) == [999.0, 499.5]
    assert values.timesteps([1.0]) == [0.999]  # a level times T: larger ones have come
    with pytest.raises(UsageError, match=r"in \[0, 1000\], got 1200"):
        values.timesteps([1200.0])
    with pytest.raises(UsageError, match=r"in \[0, 1\], got -0.5"):
        TimestepValues("flow_matching", 1000).timesteps([-0.5])


@pytest.mark.parametrize("turned", [False, True])
def test_tables_are_linear_between_their_pairs(turned: bool) -> None:
    pairs = [(0.0, 0.0), (0.25, 100.0), (0.75, 700.0), (1.0, 990.0)]
    if turned:
        pairs = [(1.0 - value, t) for value, t in reversed(pairs)]
    values = TimestepValues("gaussian", 1000, tuple(pairs))
    asked = np.array([0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.005, 1.02])
    found = values.timesteps(list(1.0 - asked if turned else asked))
    expected = [0.0, 50.0, 100.0, 400.0, 700.0, 990.0, 995.8, 999.0]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    with pytest.raises(UsageError, match=r"or near, as while calibrating, got (2|-1);"):
        values.timesteps([-1.0 if turned else 2.0])


def test_tables_are_noted_where_they_are_needed() -> None:
    timesteps = np.linspace(999, 0, 200)
    assert table_of(zip(timesteps, timesteps, strict=True), "gaussian", 1000) is None
    assert table_of(zip(timesteps / 999, timesteps, strict=True), "flow_matching", 1000) is None
    assert table_of(zip(timesteps / 0.999, timesteps, strict=True), "flow_matching", 1000) is None
    for handed in (timesteps / 1000, 1 - timesteps / 1000, np.log(timesteps + 1) / 4):
        table = table_of(zip(handed, timesteps, strict=True), "gaussian", 1000)
        assert table is not None
        assert len(table) == MAX_PAIRS
        found = TimestepValues("gaussian", 1000, table).timesteps(list(handed))
        np.testing.assert_allclose(found, timesteps, atol=5.0)  # 64 pairs for 200


def test_what_is_no_table() -> None:
    assert table_of([], "gaussian", 1000) is None
    assert table_of([(0.5, 10)], "gaussian", 1000) is None
    assert table_of([(0.1, 10), (0.2, 30), (0.3, 20)], "gaussian", 1000) is None
