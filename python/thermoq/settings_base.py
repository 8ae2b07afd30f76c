"""What all parts of the settings are made of: their base class, types and error messages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from thermoq.encodings import MAX_GROUP_SIZE

BitWidth = Literal[2, 3, 4, 8]
ActivationBits = Literal[4, 8]
InputBits = Literal[4, 8, "none"]
Effort = Literal[1, 2, 3, 4, 5]
GroupSize = Annotated[int, Field(ge=8, le=MAX_GROUP_SIZE, multiple_of=8)]


def expected(what: str, **inside: object) -> PydanticCustomError:
    """Return an error whose message is the phrase after "expected".

    If it lies inside the value that is checked, `at` says where and `got` what is there.
    """
    return PydanticCustomError("expected", "{what}", {"what": what, **inside})


def number(value: object) -> object:
    """Take the digits of a flag that is a number or a word for the number."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def section(value: object) -> object:
    """Take `validation:` with nothing after it for an empty section."""
    return {} if value is None else value


def sequence(value: object) -> object:
    """Take a list of YAML, or nothing, for a tuple."""
    return () if value is None else tuple(value) if isinstance(value, list) else value


class Settings(BaseModel):
    """Base of all settings. A field's description is the phrase after "expected" in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
