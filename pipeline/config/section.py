"""The base classes of a config's sections."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator


def _refuse_initial(name: str) -> str:
    """Refuse a name whose column would be taken for that of first images."""
    if name == "initial" or name.endswith("_initial"):
        raise ValueError(f"{name!r} would give a column the name of another one; choose another name")
    return name


# The name of a scorer or judge, which becomes a part of the names of its columns.
ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$"), AfterValidator(_refuse_initial)]


class Section(BaseModel):
    """One section of a config. Unknown keys are refused, and every value can be written to YAML, JSON and Parquet."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _can_be_written(cls, fields: object) -> object:
        if not isinstance(fields, dict):
            return fields
        for name, value in fields.items():
            if isinstance(value, int) and value.bit_length() > 63:
                raise ValueError(f"{name} is an integer beyond 64 bits; give a smaller one")
            if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
                raise ValueError(f"{name} holds half a surrogate pair, which is not valid Unicode; remove it")
        return fields


class Actors(Section):
    """How many actors there are, and what each of them holds."""

    count: int = Field(1, ge=1, le=4096)
    num_gpus: float = Field(0, ge=0, description="GPUs per actor; fractions share a GPU")
    num_cpus: float = Field(1, gt=0, description="CPU cores per actor; also its number of torch threads, at least one")
    batch_size: int = Field(8, ge=1, le=4096)

    @field_validator("num_gpus")
    @classmethod
    def _gpus_can_be_shared_out(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(
                f"{value:g} GPUs are no number that Ray can give to one actor; use a fraction or a whole one"
            )
        return value
