"""What the hooks count: rows that make the layer's output, every pass once, shared inputs once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from thermoq.calibration.collect import Collector  # noqa: E402
from thermoq.calibration.patches import input_rows  # noqa: E402
from thermoq.calibration.statistics import InputStatistics  # noqa: E402
from thermoq.errors import InputError  # noqa: E402
from torch import nn  # noqa: E402

BINS = 4


def statistics(name: str, num_columns: int) -> InputStatistics:
    return InputStatistics(num_columns, BINS, 6, 0, name)


def watching(model: nn.Module, *names: str) -> Collector:
    return Collector(model, {f"{name}.weight": name for name in names}, statistics)


# Rows.

LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(6, 5),
    lambda: nn.Conv1d(3, 5, 4, stride=2, padding=1),
    lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    lambda: nn.Conv2d(3, 5, 3, padding="same", dilation=2),
    lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"),
    lambda: nn.Conv2d(3, 5, 1),
    lambda: nn.Conv3d(3, 5, (1, 2, 3), padding=(0, 1, 1)),
    lambda: nn.ConvTranspose1d(3, 5, 4, stride=3, padding=1, output_padding=2),
    lambda: nn.ConvTranspose2d(3, 5, (4, 3), stride=(2, 1), padding=(1, 3), dilation=(1, 2)),
    lambda: nn.ConvTranspose3d(3, 5, 2, stride=2),
]


def input_for(layer: Any, samples: int = 2) -> Any:
    if isinstance(layer, nn.Linear):
        return torch.randn(samples, 7, layer.in_features)
    return torch.randn(samples, layer.in_channels, *[7, 8, 6][: len(layer.kernel_size)])


def rows_of(layer: Any, values: Any) -> Any:
    rows = input_rows(layer)
    assert rows is not None
    return torch.cat(list(rows.chunks(values)))


@pytest.mark.parametrize("make", LAYERS)
def test_rows_times_the_weight_are_the_output(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    layer: Any = make()
    values = input_for(layer)
    expected = layer(values)
    if not isinstance(layer, nn.Linear):
        expected = expected.movedim(1, -1)
    weight = layer.weight
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        weight = weight.movedim(1, 0)
    found = rows_of(layer, values) @ weight.reshape(len(weight), -1).T + layer.bias
    torch.testing.assert_close(found, expected.reshape(found.shape))


def test_channel_groups_have_a_row_each() -> None:
    layer = nn.Conv2d(6, 4, 3, groups=2, bias=False)
    values = input_for(layer)
    rows = rows_of(layer, values).reshape(-1, 2, 27)
    weight = layer.weight.reshape(2, 2, 27)
    found = torch.einsum("pgi,goi->pgo", rows, weight)
    expected = layer(values).movedim(1, -1)
    torch.testing.assert_close(found.reshape(-1), expected.reshape(-1))


def test_unfolding_in_small_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)
    values = input_for(layer)
    whole = rows_of(layer, values)
    monkeypatch.setattr("thermoq.calibration.patches._CHUNK_VALUES", 100)
    rows = input_rows(layer)
    assert rows is not None
    pieces = list(rows.chunks(values))
    assert len(pieces) > 2 * len(values)
    assert torch.equal(torch.cat(pieces), whole)


# Counting.


class Attention(nn.Module):
    """Three layers of one input, one of another, a table, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.out = nn.Linear(4, 4)
        self.table = nn.Embedding(3, 4)
        self.idle = nn.Linear(4, 4)
        self.other_k: Any = None
        self.twice = False

    def forward(self, x: Any) -> Any:
        q = self.q(x)
        k = self.k(x if self.other_k is None else self.other_k(x))
        if self.twice:
            self.k(x * 2)
        return self.out(q * k * self.v(x))


NAMES = ("q", "k", "v", "out", "table", "idle")


def expected_of(rows: Sequence[Any]) -> tuple[Any, Any]:
    """Mean and second moment in float64, apart from all that is tested."""
    all_rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in rows]).double()
    return all_rows.mean(dim=0), all_rows.square().mean(dim=0)


def test_layers_of_one_input_share_it() -> None:
    model = Attention()
    inputs = [torch.randn(2, 3, 4) for _ in range(3)]
    with watching(model, *NAMES) as collector:
        for bin, values in zip((0, 2, 2), inputs, strict=True):
            with collector.at(bin, 900.0):
                model(values)
        model(torch.full((1, 1, 4), torch.nan))  # outside a pass nothing is counted
    model(torch.full((1, 1, 4), torch.nan))  # nor without hooks
    q = "q.weight"
    assert collector.layer_inputs == {
        q: q, "k.weight": q, "v.weight": q, "out.weight": "out.weight"
    }  # fmt: skip
    assert collector.unreached == ("table.weight", "idle.weight")
    found = collector.inputs[q].finish()
    assert found.count.tolist() == [6, 0, 12, 0]
    mean, second = expected_of(inputs[1:])
    np.testing.assert_allclose(found.mean[2], mean, rtol=1e-6)
    np.testing.assert_allclose(found.second_moment[2], second, rtol=1e-6)
    assert found.maximum[2] == max(values.max() for values in inputs[1:])


@pytest.mark.parametrize("change", ["other", "twice", "in place"])
def test_layers_part_when_their_inputs_do(change: str) -> None:
    model = Attention()
    inputs = [torch.randn(2, 3, 4) for _ in range(4)]
    seen: list[Any] = []
    with watching(model, *NAMES) as collector:
        for number, values in enumerate(inputs):
            seen.append(values.clone())
            if number == 2 and change == "other":
                model.other_k = lambda x: x + 1
            elif number == 2 and change == "in place":
                model.other_k = lambda x: x.add_(1)
            elif number == 2:
                model.twice = True
            with collector.at(0, 1.0), torch.no_grad():
                model(values)
    shifted = [values + 1 for values in seen[2:]]
    doubled = [values * 2 for values in seen[2:]]
    of_k = {"other": seen[:2] + shifted, "in place": seen[:2] + shifted, "twice": seen + doubled}
    of_v = {"in place": seen[:2] + shifted}.get(change, seen)
    assert collector.layer_inputs["k.weight"] != collector.layer_inputs["q.weight"]
    for name, rows in {"q": seen, "k": of_k[change], "v": of_v}.items():
        found = collector.inputs[collector.layer_inputs[f"{name}.weight"]].finish()
        mean, second = expected_of(rows)
        np.testing.assert_allclose(found.mean[0], mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.second_moment[0], second, rtol=1e-5)
        assert found.minimum[0] == min(part.min() for part in rows)
        assert found.count[0] == sum(part.numel() // 4 for part in rows)


def test_a_layer_that_is_skipped_in_a_pass_parts() -> None:
    model = Attention()
    inputs = [torch.randn(2, 3, 4) for _ in range(2)]
    with watching(model, "q", "k", "v") as collector:
        with collector.at(0, 1.0):
            model(inputs[0])
        with collector.at(0, 0.0):
            model.q(inputs[1])
            model.k(inputs[1])
    counts = {name: collector.inputs[own].count[0] for name, own in collector.layer_inputs.items()}
    assert counts == {"q.weight": 12, "k.weight": 12, "v.weight": 6}


def test_a_bin_for_each_sample() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    values = torch.randn(3, 1, 6, 6)
    with watching(model, "0", "2") as collector, collector.at([3, 0, 3], [1.0, 990.0, 3.0]):
        model(values)
    one, two = (collector.inputs[f"{name}.weight"].finish() for name in ("0", "2"))
    assert one.count.tolist() == [16, 0, 0, 32]
    assert two.count.tolist() == [1, 0, 0, 2]
    assert one.maximum[0] == values[1].max()


def test_samples_that_cannot_be_told_apart_are_an_error() -> None:
    model = nn.Linear(4, 4)
    with Collector(model, {"weight": ""}, statistics) as collector:
        collector.begin([0, 1], [999.0, 0.0])
        with pytest.raises(InputError, match=r"layer weight: expected a multiple of 2 samples"):
            model(torch.zeros(3, 4))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    model = Attention()
    with (
        watching(model, *NAMES) as collector,
        pytest.raises(InputError, match=r"layer q.weight at timestep 749.5: expected finite"),
        collector.at(1, 749.5),
    ):
        model(torch.full((1, 1, 4), value))


def test_bfloat16_is_counted_in_full() -> None:
    model = nn.Linear(4, 4).to(torch.bfloat16)
    values = torch.randn(5, 4).to(torch.bfloat16)
    with Collector(model, {"weight": ""}, statistics) as collector, collector.at(0, 0.0):
        model(values)
    found = collector.inputs["weight"].finish()
    np.testing.assert_allclose(found.mean[0], values.double().mean(dim=0), rtol=1e-6)


def test_going_on_from_a_state_is_the_same_as_never_stopping() -> None:
    model = Attention()
    inputs = [torch.randn(2, 3, 4) for _ in range(6)]

    def count(collector: Collector, part: Sequence[Any]) -> None:
        with collector:
            for values in part:
                with collector.at(1, 500.0):
                    model(values)

    whole, first, second = (watching(model, *NAMES) for _ in range(3))
    count(whole, inputs)
    count(first, inputs[:3])
    described, arrays = first.state()
    second.restore(described, arrays)
    count(second, inputs[3:])
    assert second.layer_inputs == whole.layer_inputs
    for name, expected in whole.inputs.items():
        found = second.inputs[name].finish()
        for key, value in vars(expected.finish()).items():
            np.testing.assert_array_equal(getattr(found, key), value)
    with pytest.raises(ValueError, match="other layers"):
        watching(model, "q").restore(described, arrays)
