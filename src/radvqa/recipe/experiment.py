"""The recipe of an experiment: one base recipe, some changes of it, and the seeds that each of them is run with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from radvqa.recipe.sections import Name, Section, did_you_mean
from radvqa.sample import Split

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Cell(Section):
    """One variant of the base recipe."""

    set: Mapping[str, Any] = Field(default_factory=dict)
    """Changes by dotted key, as `--set` makes them: `stages.adapt.updates: 120`."""
    drop: tuple[str, ...] = ()
    """Names of stages that are left out."""


class Trend(Section):
    """A number that the cells differ in, for a curve over it."""

    label: str
    """What the number is, with its unit; the name of the curve's axis."""
    at: Mapping[Name, float] = Field(min_length=2)
    """The number of each cell that belongs to the curve."""


class Transfer(Section):
    """Another split that the trained model of every cell answers too."""

    dataset: str
    """Name of an entry under `recipe.datasets`."""
    split: Split = "val"
    """Split that is evaluated."""

    def __str__(self) -> str:
        return f"{self.dataset} {self.split}"


class Experiment(Section):
    """A whole experiment. Every cell is run once per seed, as an ordinary run called `<experiment>-<cell>`."""

    page: ClassVar[str] = "experiment_recipes.md"

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=50)]
    """Name of the results folder and first part of the names of its runs."""
    question: str = Field(min_length=1)
    """What the experiment asks, in one sentence; it heads the results page."""
    recipe: Mapping[str, Any]
    """A whole recipe of a run, but for its name and seed."""
    seeds: tuple[Seed, ...] = Field(min_length=1)
    """Seeds of the runs; the outermost loop, so that every cell has a first result early."""
    cells: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=49)], Cell] = Field(
        min_length=2
    )
    """The variants by name, in the order in which they are run."""
    reference: str
    """The cell that the others are compared with."""
    trend: Trend | None = None
    """A number that the cells differ in, for a sensitivity curve."""
    evaluate_on: tuple[Transfer, ...] = ()
    """Further splits that every cell's model answers, beside `recipe.evaluate`."""
    margin: float | None = Field(default=None, gt=0, lt=1)
    """Smallest difference in accuracy (0.05 is five points) that would matter. With it, the page says which effects are
    shown to be smaller than that, and the power to find one of that size."""
    output: Path = Path("experiments")
    """Folder under which the results folder is made."""

    @field_validator("recipe")
    @classmethod
    def _name_and_seed_are_given_by_the_experiment(cls, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        for key in ("name", "seed"):
            if key in recipe:
                raise ValueError(f"{key} has no place here: runs are named by cell, and seeds stand under seeds")
        return recipe

    @model_validator(mode="after")
    def _names_exist(self) -> "Experiment":
        known = list(self.cells)
        named = [("reference", self.reference), *(("trend.at", name) for name in (self.trend.at if self.trend else ()))]
        for where, name in named:
            if name not in self.cells:
                raise ValueError(f"{where}: no cell is called {name!r}{did_you_mean(name, known)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is named twice")
        if len(set(map(str, self.evaluate_on))) < len(self.evaluate_on):
            raise ValueError("evaluate_on: a split is named twice")
        datasets = list(self.recipe.get("datasets") or ())
        for further in self.evaluate_on:
            if further.dataset not in datasets:
                raise ValueError(
                    f"evaluate_on: no data set is called {further.dataset!r}{did_you_mean(further.dataset, datasets)}"
                )
        if self.trend is not None and len(set(self.trend.at.values())) < 2:
            raise ValueError("trend.at: the cells need different numbers")
        return self
