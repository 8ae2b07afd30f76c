"""Held-out data of the user's: what is there twice counts once, and too little is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import thermoq  # noqa: E402
from thermoq.calibration.images import Images  # noqa: E402
from thermoq.calibration.language_models import load_language_model  # noqa: E402
from thermoq.calibration.masked import MaskedSampling  # noqa: E402
from thermoq.calibration.settings import CalibrationSettings  # noqa: E402
from thermoq.errors import UsageError  # noqa: E402
from thermoq.evaluation.held_out import with_different_images  # noqa: E402
from thermoq.evaluation.language import given_text  # noqa: E402
from thermoq.evaluation.run import evaluate  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages; ours are not Python's
TRAINED = Path(__file__).parents[1] / "data" / "masked-lm"
SMALL: dict[str, Any] = {"steps": 4, "threads": 1, "timing": False}


def images(count: int) -> Any:
    return np.random.default_rng(0).uniform(-1, 1, (count, 1, 8, 8)).astype(np.float32)


def settings(path: Path, samples: int) -> CalibrationSettings:
    return CalibrationSettings(samples=samples, data=path, mix=1.0)


# Images.


def test_samples_are_no_more_than_the_images(there: Path) -> None:
    np.save("ten.npy", images(10))
    found = evaluate("model", "quantized", data="ten.npy", samples=32, **SMALL)
    assert found.num_samples == 10
    note = "ten.npy: 10 different images, all of them used, not the 32 of --samples"
    assert found.notes == [note]
    assert found.denoiser is not None
    assert len(found.denoiser.quarter_sums.passes) == 10
    exact = evaluate("model", "quantized", data="ten.npy", samples=10, **SMALL)
    assert (exact.notes, exact.num_samples) == ([], 10)
    assert exact.denoiser == found.denoiser
    assert exact.inputs_key == found.inputs_key  # the same inputs, so the samples are pairs
    fewer = evaluate("model", "quantized", data="ten.npy", samples=8, **SMALL)
    assert (fewer.notes, fewer.num_samples) == ([], 8)


def test_copies_of_images_do_not_count(there: Path) -> None:
    different = images(9)
    np.save("plain.npy", different)
    np.save("copies.npy", np.repeat(different, 3, axis=0))
    plain, copies = (
        evaluate("model", "quantized", data=name, samples=9, **SMALL)
        for name in ("plain.npy", "copies.npy")
    )
    assert copies.denoiser == plain.denoiser
    assert copies.notes == []


@pytest.mark.parametrize("copies", [1, 16])
def test_too_few_images(there: Path, copies: int) -> None:
    np.save("two.npy", np.repeat(images(2), copies, axis=0))
    with pytest.raises(UsageError) as caught:
        evaluate("model", "quantized", data="two.npy", samples=32, **SMALL)
    assert str(caught.value) == (
        "two.npy: --data: expected at least 8 different images, with fewer there is no interval; "
        "got 2"
    )


def test_copies_of_files_do_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, image in enumerate(images(9)):
        for copy in ("a", "b"):
            np.save(folder / f"{number}{copy}.npy", image)
    given = Images(folder)
    assert (len(given), len(given.different(100)), len(given.different(4))) == (18, 9, 4)
    for number in range(9):
        found = given.different(100).get(number, 1, 8, 8).numpy()
        np.testing.assert_array_equal(found, images(9)[number])
    assert with_different_images(settings(folder, 64)).samples == 9
    assert with_different_images(settings(folder, 8)).samples == 8
    plain = CalibrationSettings(samples=5)
    assert with_different_images(plain) == plain


def test_a_calibration_takes_images_again_and_says_so(there: Path) -> None:
    np.save("three.npy", images(3))
    found = thermoq.calibrate(
        "model", "c", samples=8, steps=2, bins=2, rows=2, data="three.npy", threads=1
    )
    note = "--data: 4 samples are of 3 images, taken again with other noise"
    assert found.description.details["note"] == note
    other = thermoq.calibrate(
        "model", "d", samples=6, steps=2, bins=2, rows=2, data="three.npy", threads=1
    )
    assert "note" not in other.description.details


# Text.


@pytest.fixture(scope="module")
def one_line() -> str:
    import pydoc_data.topics

    text = " ".join(" ".join(pydoc_data.topics.topics.values()).split())
    return text[:6000]


def test_one_line_of_text_is_cut_into_windows(tmp_path: Path, one_line: str) -> None:
    (tmp_path / "t.txt").write_text(one_line)
    thermoq.quantize(TRAINED, tmp_path / "quantized", threads=1)
    found = evaluate(
        TRAINED, tmp_path / "quantized", samples=1000, length=64, data=tmp_path / "t.txt",
        threads=1, timing=False,
    )  # fmt: skip
    model = load_language_model(TRAINED)
    expected = len(model.encode(one_line + "\n")) // 64
    assert found.num_samples == expected < 100
    assert found.notes == [
        f"t.txt: {expected} different windows of 64 tokens, all of them used, not the 1,000 of "
        "--samples"
    ]
    assert found.language is not None
    assert len(found.language.sums.tokens) == expected


def test_windows_do_not_overlap(tmp_path: Path, one_line: str) -> None:
    model, sampling = load_language_model(TRAINED), MaskedSampling(64, 4, 64, seed=0)
    lines = [one_line[i : i + 500] for i in range(0, 6000, 500)]
    tokens = given_text(model, tmp_path / "t.txt", lines, sampling).tokens
    assert len({tuple(row) for row in tokens.tolist()}) == len(tokens) > 8
    whole = torch.tensor([token for line in lines for token in model.encode(f"{line}\n")])
    assert torch.equal(tokens.flatten(), whole[: tokens.numel()])


def test_too_little_text(tmp_path: Path, one_line: str) -> None:
    model, sampling = load_language_model(TRAINED), MaskedSampling(64, 4, 64, seed=0)
    line = one_line[:1000]
    expected = len(model.encode(line + "\n")) // 64
    assert 0 < expected < 8
    for lines in ([line], [line] * 50):
        with pytest.raises(UsageError) as caught:
            given_text(model, tmp_path / "t.txt", lines, sampling)
        assert str(caught.value) == (
            f"{tmp_path / 't.txt'}: --data: expected at least 8 different windows of 64 tokens, "
            f"with fewer there is no interval; got {expected}; a smaller --length gives more"
        )
