"""What an interrupted calibration has got: a file beside the output, replaced after each batch.

A NumPy archive of the accumulators' arrays, with what run it is of. It is for the same command on
the same version of thermoq, and goes when the output is written.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thermoq.calibration.collect import Collector
from thermoq.calibration.handed import HandedValues
from thermoq.checkpoint.untrusted import bad_file
from thermoq.errors import UsageError
from thermoq.staging import final_path, published_together, refused

_ABOUT = "about"


class PartialFile:
    """The partial results of a run that `identity` tells from others."""

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        self.path = output.with_name(output.name + ".partial")
        self._identity = json.loads(json.dumps(identity))

    def restore(self, collectors: Sequence[Collector], handed: HandedValues) -> int:
        """Give the collectors and `handed` what they had, and return how many batches were done.

        That is 0 if there is no file.

        Raises UsageError for a file of another command, InputError for one that is broken.
        """
        if not os.path.lexists(self.path):
            return 0
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                about = json.loads(archive[_ABOUT].tobytes())
                self._check(about["identity"])
                for number, collector in enumerate(collectors):
                    described = about["collectors"][number]
                    arrays = [
                        {key: archive[f"{number}/{i}/{key}"] for key in about["keys"]}
                        for i in range(len(described))
                    ]
                    collector.restore(described, arrays)
                handed.restore(about["handed"])
                return int(about["batches_done"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:200]
            problem = f"not a partial calibration ({reason}); delete it to begin anew"
            raise bad_file(self.path, problem) from None

    def save(
        self, collectors: Sequence[Collector], handed: HandedValues, batches_done: int
    ) -> None:
        """Replace the file. Raises InputError if the disk refuses; the old one stays then."""
        arrays: dict[str, Any] = {}
        descriptions, keys = [], []
        for number, collector in enumerate(collectors):
            described, states = collector.state()
            descriptions.append(described)
            for i, state in enumerate(states):
                keys = list(state)
                arrays.update({f"{number}/{i}/{key}": array for key, array in state.items()})
        about = {
            "identity": self._identity,
            "batches_done": batches_done,
            "collectors": descriptions,
            "keys": keys,
            "handed": handed.pairs,
        }
        arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with published_together() as staging:
            try:
                with open(staging.add(self.path, replace=True).temporary, "xb") as file:
                    np.savez(file, **arrays)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise refused(self.path, error) from None

    def remove(self) -> None:
        """Remove the file, if there is one."""
        final_path(self.path).unlink(missing_ok=True)

    def _check(self, found: Mapping[str, Any]) -> None:
        for key in sorted({*found, *self._identity}):
            if found.get(key) != self._identity.get(key):
                raise UsageError(
                    f"{self.path}: expected the partial result of this command, got one with "
                    f"{key} {found.get(key)}, not {self._identity.get(key)}; delete it to begin "
                    "anew"
                )
