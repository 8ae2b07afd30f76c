"""The user's held-out data: samples count once, and enough of them have to be there.

An interval takes samples for independent ones. The same image with other noise, or the same text
with other masks, is not: it would narrow intervals without telling anything new.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from thermoq.calibration.settings import CalibrationSettings
from thermoq.checkpoint.untrusted import shown_path
from thermoq.errors import UsageError
from thermoq.evaluation.intervals import MIN_SAMPLES


def with_different_images(settings: CalibrationSettings) -> CalibrationSettings:
    """Return the settings of an evaluation with no more samples than `data` has different images.

    Raises UsageError if these are too few, InputError for images that cannot be read.
    """
    if settings.data is None:
        return settings
    from thermoq.calibration.images import Images

    found = len(Images(settings.data).different(settings.samples))
    check_enough(found, "images", settings.data)
    return replace(settings, samples=found, different_data=True)


def check_enough(found: int, what: str, path: Path, hint: str = "") -> None:
    """Raise UsageError if there are fewer different samples in `path` than an interval needs."""
    if found < MIN_SAMPLES:
        raise UsageError(
            f"{shown_path(path)}: --data: expected at least {MIN_SAMPLES} different {what}, with "
            f"fewer there is no interval; got {found}{hint}"
        )


def fewer_note(found: int, asked: int, what: str, path: Path | None) -> list[str]:
    """Return what to say where fewer samples were used than were asked for; nothing else."""
    if path is None or found == asked:
        return []
    return [
        f"{path.name}: {found:,} different {what}, all of them used, not the {asked:,} of --samples"
    ]
