"""The weight files of one folder: which of them count, and whether shards and index agree.

A folder may hold one file, shards with an index, or shards without one, beside variants of the same
weights (`model.fp16.safetensors`) and files of other tools. Names are those of transformers and
diffusers, `_add_variant` and `variant_compatible_siblings` in their sources.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from thermoq.checkpoint.reader import StoredTensor, stored_tensors
from thermoq.checkpoint.strict_json import read_json_object
from thermoq.checkpoint.untrusted import bad_file, bad_tensor, shown, shown_path

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"

_SHARD = re.compile(r"(?P<head>.+)-(?P<number>[0-9]+)-of-(?P<count>[0-9]+)(?P<tail>\.[^.]+)?")
_INDEX = re.compile(
    r"(?P<head>.+)\.safetensors(?P<tail>\.[^.]+)?\.index(?P<variant>\.[^.]+)?\.json"
)


@dataclass(frozen=True)
class WeightFiles:
    """The files that together hold one set of weights; `index_map` is the index's weight_map."""

    stem: str
    shards: tuple[Path, ...]
    index: Path | None = None
    index_map: dict[str, str] | None = field(default=None, repr=False)


@dataclass
class _Candidate:
    """Files of a folder whose names say that they belong together; `variant` is "" or "fp16"."""

    stem: str
    variant: str
    files: list[Path] = field(default_factory=list)
    indexes: list[Path] = field(default_factory=list)


def is_safetensors(path: Path) -> bool:
    """Whether `path` is a safetensors file or the index of some, by its name."""
    return path.suffix == ".safetensors" or _INDEX.fullmatch(path.name) is not None


def variant_of(path: Path) -> str:
    """The variant in the name of a safetensors file or index: "fp16", or "" if it has none."""
    return _stem_and_variant(path)[1]


def find_weight_files(folder: Path) -> WeightFiles | None:
    """Choose the weights in `folder`; None if it holds no safetensors file and no index.

    The set that a loader would take wins: `diffusion_pytorch_model` before `model` before another
    name, and a variant only where there is no plain set. Raises InputError if shards are missing,
    the index is malformed, or two sets have equal claims.
    """
    candidates: dict[tuple[str, str], _Candidate] = {}
    for path in sorted(path for path in folder.iterdir() if is_safetensors(path)):
        if path.exists() and not path.is_file():
            continue  # but a link to nothing stays, so that opening it says so
        stem, variant = _stem_and_variant(path)
        candidate = candidates.setdefault((stem, variant), _Candidate(stem, variant))
        (candidate.indexes if path.suffix == ".json" else candidate.files).append(path)
    if not candidates:
        return None
    chosen = _choose(folder, list(candidates.values()))
    if len(chosen.indexes) > 1:
        names = _listed(chosen.indexes)
        raise bad_file(folder, f"expected one index for the weights, got {names}")
    if chosen.indexes:
        return _indexed(folder, chosen)
    return WeightFiles(chosen.stem, _complete_shards(folder, chosen.files))


def read_tensors(weights: WeightFiles) -> dict[str, StoredTensor]:
    """Read the headers of all shards: the tensors by name, in the order of files and bytes.

    Raises InputError as `read_header` does, if two shards hold the same tensor, or if the index and
    the shards disagree in either direction.
    """
    tensors: dict[str, StoredTensor] = {}
    for shard in weights.shards:
        for name, tensor in stored_tensors(shard).items():
            if name in tensors:
                other = tensors[name].path.name
                raise bad_tensor(shard, name, f"expected it in one shard, got it in {other} too")
            tensors[name] = tensor
    if weights.index is not None and weights.index_map is not None:
        _check_index(weights.index, weights.index_map, tensors)
    return tensors


def _check_index(index: Path, index_map: dict[str, str], tensors: dict[str, StoredTensor]) -> None:
    for name, tensor in tensors.items():
        shard = tensor.path.name
        if name not in index_map:
            problem = f"expected every tensor in weight_map, got none for this one of {shard}"
            raise bad_tensor(index, name, problem)
        if index_map[name] != shard:
            problem = f"expected it in {index_map[name]} as the index says, got it in {shard}"
            raise bad_tensor(index, name, problem)
    for name, shard in index_map.items():
        if name not in tensors:
            raise bad_tensor(index, name, f"expected it in {shard}, which does not hold it")


def _stem_and_variant(path: Path) -> tuple[str, str]:
    if match := _INDEX.fullmatch(path.name):
        head, tail = match["head"], match["variant"] or match["tail"] or ""
    elif match := _SHARD.fullmatch(path.stem):
        head, tail = match["head"], match["tail"] or ""
    else:
        head, tail = path.stem, ""
    # Only the loaders' own names have variants: a lone "Qwen2.5.safetensors" is no variant "5".
    for stem in (DIFFUSERS_STEM, TRANSFORMERS_STEM):
        if head == stem or head.startswith(f"{stem}."):
            return stem, (head[len(stem) :] + tail).strip(".")
    return head + tail, ""


def _choose(folder: Path, candidates: list[_Candidate]) -> _Candidate:
    tiers: tuple[Callable[[_Candidate], bool], ...] = (
        lambda candidate: candidate.stem == DIFFUSERS_STEM,
        lambda candidate: candidate.stem == TRANSFORMERS_STEM,
        lambda candidate: bool(candidate.indexes),
        lambda candidate: True,
    )
    matching = next(found for tier in tiers if (found := list(filter(tier, candidates))))
    plain = [candidate for candidate in matching if not candidate.variant] or matching
    if len(plain) == 1:
        return plain[0]
    names = _listed(path for candidate in plain for path in candidate.files + candidate.indexes)
    raise bad_file(folder, f"expected one set of weights, got {names}; keep one of them")


def _indexed(folder: Path, chosen: _Candidate) -> WeightFiles:
    (index,) = chosen.indexes
    index_map = _read_index(index)
    shards = tuple(folder / name for name in sorted(set(index_map.values())))
    for shard in shards:
        if not shard.is_file():
            raise bad_file(index, f"names the shard {shard.name}, which is missing")
    for path in chosen.files:
        if path not in shards:
            raise bad_file(index, f"expected it to name all weight files, it misses {path.name}")
    return WeightFiles(chosen.stem, shards, index, index_map)


def _read_index(index: Path) -> dict[str, str]:
    index_map = read_json_object(index, strict=True).get("weight_map")
    if not isinstance(index_map, dict) or not index_map:
        raise bad_file(index, f"expected weight_map to be an object, got {shown(index_map)}")
    for name, shard in index_map.items():
        if not isinstance(shard, str):
            raise bad_tensor(index, name, f"expected a file name, got {shown(shard)}")
        if shard in {"", ".", ".."} or any(character in shard for character in "/\\:\0"):
            problem = f"expected a plain file name, got {shown(shard)}"
            escape = "a name that would escape the output directory"
            raise bad_tensor(index, name, f"{problem}: {escape}")
        if not shard.endswith(".safetensors") or not shard.isprintable():
            raise bad_tensor(index, name, f"expected a safetensors file, got {shown(shard)}")
    return index_map


def _complete_shards(folder: Path, files: list[Path]) -> tuple[Path, ...]:
    """The files of a set without index: a single one, or all `-00001-of-0000N` in order."""
    matches = [_SHARD.fullmatch(path.stem) for path in files]
    if len(files) == 1 and matches[0] is None:
        return tuple(files)
    numbered = {
        int(match["number"]): path
        for match, path in zip(matches, files, strict=True)
        if match is not None
    }
    counts = {match["count"] for match in matches if match is not None}
    if len(numbered) < len(files) or len(counts) > 1:
        raise bad_file(folder, f"expected one set of weights, got {_listed(files)}; keep one")
    count = int(counts.pop())
    missing = next((number for number in range(1, count + 1) if number not in numbered), None)
    if missing is not None:
        problem = f"expected {count} shards or an index, got {_listed(files)}"
        raise bad_file(folder, f"{problem}; {_shard_name(files[0], missing)} is missing")
    if len(numbered) > count:
        raise bad_file(folder, f"expected shards numbered 1 to {count}, got {_listed(files)}")
    return tuple(numbered[number] for number in range(1, count + 1))


def _shard_name(sibling: Path, number: int) -> str:
    """The name of shard `number` in the style of its `sibling`."""
    head, _, rest = sibling.name.rpartition("-of-")
    head, _, digits = head.rpartition("-")
    return f"{head}-{number:0{len(digits)}}-of-{rest}"


def _listed(paths: Iterable[Path], limit: int = 4) -> str:
    """The first file names and how many more there are."""
    names = [shown_path(Path(path.name)) for path in paths]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
