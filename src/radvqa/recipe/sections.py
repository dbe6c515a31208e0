"""What every recipe has: strict sections, a name, a seed, an output folder and a digest; and entries of data sets."""

import difflib
import hashlib
import importlib.metadata
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from radvqa.sample import Split

# Names become names of files, which may have 255 bytes with what is put around them.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


class Section(BaseModel):
    """Part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic would take ``true`` for 1, which is hardly ever what was meant."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"true and false have no place here, got {str(value).lower()}")
        return value


class Splits(Section):
    """New splits of a data set, drawn by group (patient, case or image) from published ones."""

    pool: tuple[Split, ...] = Field(default=("train",), min_length=1)
    """Published splits whose rows are drawn from. Published splits outside the pool stay as they are."""
    fractions: Mapping[Split, float] = Field(min_length=1)
    """Share of the pool's rows per new split, such as `{train: 0.85, val: 0.15}`; the shares sum to 1."""
    stratify_by: str | None = None
    """A tag, such as `modality`, whose values should be spread over the splits alike."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the draw; apart from the run's seed, so that runs with other seeds have the same splits."""

    @field_validator("fractions")
    @classmethod
    def _shares_sum_to_one(cls, fractions: Mapping[Split, float]) -> Mapping[Split, float]:
        if any(share <= 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
            raise ValueError("the fractions must be above 0 and sum to 1")
        return fractions


class Dataset(Section):
    """One data set; other keys are options of its adapter (see `radvqa list datasets`)."""

    model_config = ConfigDict(extra="allow")
    adapter: str
    """A name of `radvqa list datasets`, or the dotted name of your own module."""
    splits: Splits | None = None
    """New splits by group; the published ones when absent."""

    @model_validator(mode="after")
    def _options_are_plain(self) -> "Dataset":
        for name, value in self.options.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: an option must be text, a finite number, a list or a mapping") from error
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What the adapter's constructor is given."""
        return dict(self.model_extra or {})


class StoredRecipe(Section, ABC):
    """A recipe that a folder is made for. ``page`` names the page of docs/ that lists its keys."""

    page: ClassVar[str]

    name: Name
    """First part of the folder's name."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """All random choices follow from it."""
    output: Path = Path("runs")
    """Folder under which the folder is made."""

    def resolved(self) -> dict[str, Any]:
        """Every value with defaults written out, ready for YAML or JSON."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Eight hex digits over everything that changes results, the version of radvqa included."""
        values = {**self.what_changes_results(), "radvqa": importlib.metadata.version("radvqa")}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

    @abstractmethod
    def what_changes_results(self) -> dict[str, Any]:
        """The resolved values without those that only say where things are or how fast they are done."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Words in brackets that name the known name nearest to ``name``, or all of them; ``""`` where none is known."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(known)})" if known else ""
