"""Fixtures that tests of more than one module use."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Tests ask for more threads than there are cores; those that wait must not keep them busy. Read
# when OpenMP is loaded, so it comes first.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import models
import thermoq
from thermoq import _core


@pytest.fixture(params=_core.available_simd_levels())
def simd_level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each level that this machine has, for the length of a test."""
    before = _core.simd_level()
    _core.set_simd_level(request.param)
    yield request.param
    _core.set_simd_level(before)


@pytest.fixture(scope="session", autouse=True)
def _instant_sync() -> Iterator[None]:
    """Files reach the disk when they do: no test could tell, and waiting takes half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@dataclass(frozen=True)
class Run:
    """A model, its quantized form, and that exported to float32. Not to be changed by a test."""

    name: str
    dtype: str
    source: Path
    output: Path
    dense: Path
    report: thermoq.Report
    settings: dict[str, Any]

    @property
    def component(self) -> str:
        """The folder of the component that is quantized, "" for the root."""
        return models.COMPONENTS[self.name]


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    """Quantize the model of a name in a dtype, by default with default settings, once a session.

    `method`: that of the weights; "minmax" brings the encoding affine. `encoding`: of 2 and 4 bits.
    `effort`: of trellis.
    """
    root = tmp_path_factory.mktemp("quantized")

    @functools.cache
    def made(
        name: str, dtype: str, method: str | None, encoding: str | None, effort: int | None
    ) -> Run:
        folder = root / f"{name}-{dtype}-{method}-{encoding}-{effort}"
        if name != "minilm":
            source = models.MAKERS[name](folder / name, dtype)
        else:
            source = models.minilm() if dtype == "F32" else models.minilm_as(folder / name, dtype)
        folder.mkdir(exist_ok=True)
        settings = {"method": method, "encoding": encoding, "effort": effort}
        report = thermoq.quantize(source, folder / "out", threads=2, **settings)
        thermoq.export(folder / "out", folder / "dense", dtype="float32")
        return Run(name, dtype, source, folder / "out", folder / "dense", report, settings)

    def run(
        name: str,
        dtype: str,
        method: str | None = None,
        *,
        encoding: str | None = None,
        effort: int | None = None,
    ) -> Run:
        # One and the same for a default that is left out and one that is given.
        return made(name, dtype, method, encoding, effort)

    yield run
    shutil.rmtree(root)  # hundreds of megabytes, which pytest would keep for three sessions


RUNS = [
    *itertools.product(models.MAKERS, models.FLOAT_DTYPES),
    ("minilm", "F32"),
    ("minilm", "BF16"),
    *((name, "BF16", other) for other in ("minmax", "coded") for name in models.MAKERS),
]


@pytest.fixture(params=RUNS, ids="-".join)
def run(request: pytest.FixtureRequest, quantized: Callable[..., Run]) -> Run:
    """Every model in every dtype by default settings, in one also by minmax and in coded."""
    name, dtype, *others = request.param
    if others == ["coded"]:
        return quantized(name, dtype, encoding="coded")
    return quantized(name, dtype, *others)
