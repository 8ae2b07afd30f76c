"""The rest of a checkpoint's directory: what is carried over unchanged, what is left out and why.

A user who shrinks a model does not want the same weights a second time beside it, as a pickle, an
fp16 variant or a single-file checkpoint. What is left out is always said in a note.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from thermoq.checkpoint.reader import Component
from thermoq.checkpoint.shards import is_safetensors, variant_of
from thermoq.checkpoint.untrusted import bad_file, shown_path

MANIFEST_NAME = "thermoq.json"
MAX_FILES = 100_000

_IGNORED_FOLDERS = {".git", ".cache", "__pycache__"}
_FOREIGN_WEIGHTS = re.compile(
    r".+\.(bin|pt|pth|ckpt|pkl|pickle|msgpack|h5|onnx|onnx_data|gguf|ggml|ot|tflite)"
    r"(\.index(\.[^.]+)?\.json)?"
)


@dataclass(frozen=True)
class Remainder:
    """`files`: what to carry over, relative to the root, sorted; `notes`: what not, a line each."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    path: Path  # relative to the root
    nbytes: int


def is_foreign_weights(path: Path) -> bool:
    """Whether `path` is named like weights, or an index of them, in another format."""
    return _FOREIGN_WEIGHTS.fullmatch(path.name.lower()) is not None


def remaining_files(root: Path, components: Sequence[Component]) -> Remainder:
    """Sort all regular files under `root` but the weights of `components`; links are followed.

    Raises InputError for more than 100,000 files, OSError if a folder cannot be read.
    """
    found, dead_links = _walk(root)
    own = {path.relative_to(root) for component in components for path in component.files}
    quantized = {component.directory.relative_to(root) for component in components}
    own |= {folder / MANIFEST_NAME for folder in quantized}
    rest = [file for file in found if file.path not in own]

    copies = _copies_of_weights(rest, quantized, components)
    with_safetensors = {file.path.parent for file in found if is_safetensors(file.path)}
    configured = {file.path.parent for file in found if file.path.name == "config.json"}
    foreign = [
        file
        for file in rest
        if is_foreign_weights(file.path)
        and _holds_quantized(file.path.parent, quantized, configured, with_safetensors)
    ]
    left_out = {file.path for file in copies + foreign}
    notes = [
        *_note("further copies of the weights", copies),
        *_note("weights in other formats than safetensors", foreign),
        *_note("links to nothing", dead_links),
    ]
    return Remainder(tuple(file.path for file in rest if file.path not in left_out), tuple(notes))


def _copies_of_weights(
    rest: list[_File], quantized: set[Path], components: Sequence[Component]
) -> list[_File]:
    """Safetensors beside the quantized weights, or in the root, that hold the same again.

    Variants and their indexes do, by name. Of other names, whatever is at least half as large as a
    quantized component: single-file checkpoints are; adapters, which stay, are not. What thermoq
    wrote holds no copies, and its components are small beside adapters that it carried over.
    """
    if any((part.directory / MANIFEST_NAME).exists() for part in components):
        return []
    smallest = min(
        sum(tensor.nbytes for tensor in component.tensors.values()) for component in components
    )
    return [
        file
        for file in rest
        if is_safetensors(file.path)
        and (file.path.parent in quantized or file.path.parent == Path())
        and (file.path.suffix == ".json" or variant_of(file.path) or file.nbytes >= smallest / 2)
    ]


def _holds_quantized(
    folder: Path, quantized: set[Path], configured: set[Path], with_safetensors: set[Path]
) -> bool:
    """Whether foreign weights in `folder` repeat weights that the output has as safetensors.

    `onnx/` under a quantized model repeats it. A folder with its own config.json is another model,
    whose only weights they may be.
    """
    if folder == Path() or folder in with_safetensors:
        return True
    for parent in (folder, *folder.parents):
        if parent in quantized:
            return True
        if parent in configured:
            return False
    return False


def _walk(root: Path) -> tuple[list[_File], list[_File]]:
    """All regular files under `root` and all links to nothing, each sorted by path."""
    files: list[_File] = []
    dead_links: list[_File] = []
    for path in _paths(root):
        try:
            status = path.stat()
        except FileNotFoundError:
            dead_links.append(_File(path.relative_to(root), 0))
            continue
        if stat.S_ISREG(status.st_mode):
            files.append(_File(path.relative_to(root), status.st_size))
    files.sort(key=lambda file: file.path.as_posix())
    dead_links.sort(key=lambda file: file.path.as_posix())
    return files, dead_links


def _paths(root: Path) -> Iterator[Path]:
    """Everything under `root` that is no folder; links to folders are followed, once around."""
    count = 0
    pending: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while pending:
        folder, ancestors = pending.pop()
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:
            continue  # a link to a folder above it
        for path in folder.iterdir():
            count += 1
            if count > MAX_FILES:
                problem = f"expected a model directory, got one with more than {MAX_FILES:,} files"
                raise bad_file(root, problem)
            if not path.is_dir():
                yield path
            elif path.name not in _IGNORED_FOLDERS:
                pending.append((path, ancestors | {identity}))


def _note(what: str, files: list[_File]) -> list[str]:
    """One line that names the first files left out, or no line."""
    if not files:
        return []
    names = ", ".join(shown_path(file.path) for file in files[:4])
    more = f" and {len(files) - 4} more" if len(files) > 4 else ""
    megabytes = sum(file.nbytes for file in files) / 1e6
    return [f"left out {what} ({megabytes:,.1f} MB): {names}{more}"]
