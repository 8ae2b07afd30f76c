"""The packages that calibration runs models with, which are an extra."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from thermoq.errors import UsageError


def require_packages(*names: str, verb: str = "calibrate") -> None:
    """Raise UsageError for a package that `verb` lacks, and say how to install it."""
    for name in names or ("torch", "diffusers", "transformers"):
        if find_spec(name) is None:
            raise UsageError(
                f"{verb}: expected the {name} package, got none; pip install 'thermoq[torch]'"
            )


@contextmanager
def silenced() -> Iterator[None]:
    """Keep warnings, log lines and progress bars of these packages off the terminal."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    before = of_diffusers.get_verbosity(), of_transformers.get_verbosity()
    bars = of_diffusers.is_progress_bar_enabled(), of_transformers.is_progress_bar_enabled()
    try:
        for logging in (of_diffusers, of_transformers):
            logging.set_verbosity(logging.CRITICAL)
            logging.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logging, verbosity, had_bars in zip(
            (of_diffusers, of_transformers), before, bars, strict=True
        ):
            logging.set_verbosity(verbosity)
            if had_bars:
                logging.enable_progress_bar()
