"""What all sections of a run config share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
# Weights further apart would be lost to rounding in a step's sum.
Weight = Annotated[float, Field(ge=1e-3, le=1e3)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """Frozen and strict: no unknown key, no silent conversion of a string to a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
