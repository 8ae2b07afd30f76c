"""What a tensor is called in a GGUF file, and how to come back from it.

ggml keeps a name in 64 bytes, the last one 0 (`GGML_MAX_NAME` of ggml-org/ggml, include/ggml.h),
and refuses a file with a longer one. A name that is too long keeps its beginning and its end:

    up_blocks.0.attentions.1~dfb660910fca~s.9.attn1.to_out.0.weight

with the first 12 hexadecimal digits of its SHA-256 in between. The whole name is in the metadata,
a string under `thermoq.tensor_name.` and the short name. No array of names: the reader that
stable-diffusion.cpp falls back to (for tensors of five dimensions) cannot pass over arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

MAX_NAME_BYTES: Final = 63
FULL_NAME_KEY: Final = "thermoq.tensor_name."

_HEAD_BYTES = 24
_TAIL_BYTES = 25


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name as GGUF has it: itself if it fits into 63 bytes, else shortened.

    All results differ, and depend on the names alone, not on their order.
    """
    everything = sorted(set(names))
    shortened = {name: name for name in everything if _size(name) <= MAX_NAME_BYTES}
    taken = set(shortened)
    for name in everything:
        if name in shortened:
            continue
        attempt = 0
        while (short := _shortened(name, attempt)) in taken:
            attempt += 1
        taken.add(short)
        shortened[name] = short
    return shortened


def full_names(metadata: dict[str, str]) -> dict[str, str]:
    """Return the checkpoint's name of each shortened one, from the string metadata of a file."""
    return {
        key.removeprefix(FULL_NAME_KEY): value
        for key, value in metadata.items()
        if key.startswith(FULL_NAME_KEY)
    }


def _shortened(name: str, attempt: int) -> str:
    data = name.encode()
    salt = f"{attempt}" if attempt else ""  # a name that looks like another's short form has it
    digest = hashlib.sha256(data + salt.encode()).hexdigest()[:12]
    head = data[:_HEAD_BYTES].decode(errors="ignore")  # without the half of a character
    tail = data[-_TAIL_BYTES:].decode(errors="ignore")
    return f"{head}~{digest}~{tail}"


def _size(name: str) -> int:
    return len(name.encode())
