"""The `gguf` package, which is an extra."""

from __future__ import annotations

from typing import Any

from thermoq.errors import UsageError


def gguf_package() -> Any:
    """Import and return the `gguf` package; raises UsageError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UsageError(
            "--format gguf: expected the gguf package, got none; pip install 'thermoq[gguf]'"
        ) from None
    return gguf
