"""JSON objects from untrusted files.

`json.loads` alone lets the last of two equal keys win, takes NaN, leaves half surrogate pairs in
strings, and answers deep nesting with RecursionError and a long integer literal with ValueError or,
in older Pythons, with quadratic time.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from thermoq.checkpoint.untrusted import bad_file, open_regular_file, reading, shown

JsonObject: TypeAlias = dict[str, Any]

MAX_JSON_BYTES = 100_000_000
# Tokenizer files do hold int(1e30); a double's largest integer has 309 digits.
MAX_INTEGER_DIGITS = 400
# Writing it back must not reach the recursion limit either, which json.dumps meets sooner.
MAX_NESTING = 100


class _RefusedError(ValueError):
    """Valid for `json`, not for us; the message completes "expected JSON, got ..."."""


def read_json_object(path: Path, *, strict: bool = False) -> JsonObject:
    """Read the JSON object in the file at `path`; `strict` as in `parse_json_object`.

    Raises InputError if the file cannot be read, is above 100 MB or holds no JSON object.
    """
    with reading(path), open_regular_file(path) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise bad_file(path, f"expected at most {MAX_JSON_BYTES:,} bytes of JSON, got more")
    return parse_json_object(data, path, strict=strict)


def parse_json_object(
    data: bytes, path: Path, *, part: str = "", strict: bool = False
) -> JsonObject:
    """Parse the UTF-8 bytes `data`, which came from `path`, or from the `part` of it.

    `strict` refuses duplicate keys and the constants NaN and Infinity. Configuration files are not
    read strictly: some models that load everywhere have `Infinity` in theirs.

    Raises InputError that starts with the path and the part.
    """
    where = f"{part}: " if part else ""
    try:
        value = _parse(data, strict)
    except UnicodeDecodeError as error:
        problem = f"bytes that are not UTF-8 at position {error.start}"
        raise bad_file(path, f"{where}expected JSON, got {problem}") from error
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at line {error.lineno} column {error.colno}"
        raise bad_file(path, f"{where}expected JSON, got a syntax error: {problem}") from error
    except _RefusedError as error:
        raise bad_file(path, f"{where}expected JSON, got {error}") from error
    except RecursionError as error:
        problem = f"more than {MAX_NESTING} levels of nesting"
        raise bad_file(path, f"{where}expected JSON, got {problem}") from error
    if not isinstance(value, dict):
        raise bad_file(path, f"{where}expected a JSON object, got {shown(value)}")
    return value


def _parse(data: bytes, strict: bool) -> object:
    value: object = json.loads(
        data.decode("utf-8"),
        parse_int=_parse_integer,
        parse_constant=_refuse_constant if strict else None,
        object_pairs_hook=_object_of_unique_keys if strict else None,
    )
    if _is_nested_deeper(value, MAX_NESTING):
        raise _RefusedError(f"more than {MAX_NESTING} levels of nesting")
    # D800 to DFFF are surrogates; half a pair makes a string that cannot be written as UTF-8.
    if b"\\ud" in data or b"\\uD" in data:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise _RefusedError("an escape that is half a surrogate pair") from None
    return value


def _is_nested_deeper(value: object, levels: int) -> bool:
    """Whether `value` has containers in containers beyond `levels`; does not recurse itself."""
    containers = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        containers = [
            child
            for item in containers
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
    return bool(containers)


def _parse_integer(literal: str) -> int:
    if len(literal) > MAX_INTEGER_DIGITS:
        raise _RefusedError(f"an integer of {len(literal)} digits")
    return int(literal)


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"the constant {name}")


def _object_of_unique_keys(pairs: list[tuple[str, Any]]) -> JsonObject:
    result = dict(pairs)
    if len(result) < len(pairs):
        duplicate = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _RefusedError(f"the key {shown(duplicate)} twice")
    return result
