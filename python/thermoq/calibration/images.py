"""A user's images, as a model without its noise would see them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch.nn import functional

from thermoq.checkpoint.untrusted import bad_file
from thermoq.errors import UsageError

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class Images:
    """The images below a path: a folder of PNG, JPEG or NPY files, or one NPY of many images.

    Arrays are [height, width], [channels, height, width] or [height, width, channels], one an
    image; bytes from 0 to 255, or floats from -1 to 1.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: list[Path] = []
        self._array: NDArray[Any] | None = None
        if path.is_dir():
            known = (*_PICTURES, ".npy")
            self._files = sorted(file for file in path.iterdir() if file.suffix.lower() in known)
            if not self._files:
                raise bad_file(path, "--data: expected PNG, JPEG or NPY images, got none")
        elif path.suffix == ".npy" and path.exists():
            self._array = _read_array(path)
            if self._array.ndim not in (3, 4) or not len(self._array):
                shape = list(self._array.shape)
                raise bad_file(path, f"--data: expected images along dimension 0, got {shape}")
        else:
            raise UsageError(f"--data {path}: expected a folder of images or an .npy file")

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._files) if self._array is None else len(self._array)

    def different(self, most: int) -> Images:
        """Return the first `most` of them, leaving out what has the same bytes as an earlier one.

        Raises InputError for a file that cannot be read.
        """
        chosen: dict[bytes, int] = {}
        for number in range(len(self)):
            if len(chosen) == most:
                break
            chosen.setdefault(self._digest(number), number)
        found, numbers = copy.copy(self), list(chosen.values())
        if self._array is None:
            found._files = [self._files[number] for number in numbers]
        else:
            found._array = self._array[numbers]
        return found

    def get(self, number: int, channels: int, height: int, width: int) -> torch.Tensor:
        """Return an image as [channels, height, width] from -1 to 1; it is scaled to that size."""
        if self._array is not None:
            path, values = self._path, self._array[number]
        else:
            path = self._files[number]
            values = _read_array(path) if path.suffix == ".npy" else _read_picture(path)
        image = torch.from_numpy(_channels_first(path, values))
        if image.shape[0] != channels:
            grey = image[:3].mean(dim=0, keepdim=True)
            image = image[:3] if image.shape[0] == 4 and channels == 3 else grey
            image = image.expand(channels, -1, -1)
        if image.shape[1:] != (height, width):
            image = functional.interpolate(
                image[None], size=(height, width), mode="bilinear", antialias=True
            )[0]
        return image

    def _digest(self, number: int) -> bytes:
        if self._array is not None:
            return xxhash.xxh3_128_digest(self._array[number].tobytes())
        path = self._files[number]
        try:
            return xxhash.xxh3_128_digest(path.read_bytes())
        except OSError as error:
            problem = f"--data: not an image that can be read: {error.strerror or error}"
            raise bad_file(path, problem) from None


def _read_picture(path: Path) -> NDArray[Any]:
    from PIL import Image, UnidentifiedImageError  # comes with diffusers

    try:
        with Image.open(path) as picture:
            plain = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
            return np.array(plain)
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise bad_file(path, f"--data: not an image that can be read: {error}") from None


def _read_array(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise bad_file(path, f"--data: not an array that can be read: {error}") from None
    if not isinstance(array, np.ndarray):
        raise bad_file(path, "--data: expected one array, got an archive of several")
    return array


def _channels_first(path: Path, values: NDArray[Any]) -> NDArray[np.float32]:
    if values.ndim == 3 and values.shape[0] not in (1, 3, 4) and values.shape[2] in (1, 3, 4):
        values = np.moveaxis(values, 2, 0)
    elif values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.shape[0] not in (1, 3, 4):
        raise bad_file(
            path, f"--data: expected an image of 1, 3 or 4 channels, got {list(values.shape)}"
        )
    if values.dtype == np.uint8:
        floats = np.ascontiguousarray(values, np.float32)
        return np.array(floats / 127.5 - 1.0, np.float32)
    if values.dtype.kind != "f":
        raise bad_file(path, f"--data: expected bytes or floats, got {values.dtype}")
    floats = np.ascontiguousarray(values, np.float32)
    largest = float(np.abs(floats).max(initial=0.0))
    if not largest <= 1.001:  # NaN is not, either
        raise bad_file(path, f"--data: expected floats from -1 to 1, got {largest:g}")
    return floats
