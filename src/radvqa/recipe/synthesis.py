"""The recipe of a synthesis: which captions, which generator, which questions, which screens."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator, model_validator

from radvqa.recipe.sections import Dataset, Section, StoredRecipe
from radvqa.sample import Split

Slot = Literal["modality", "plane", "organ", "finding", "location", "severity", "yes", "no", "open"]
SLOTS: tuple[Slot, ...] = get_args(Slot)


class Generator(Section):
    """What writes the questions."""

    backend: Literal["rules", "llama_cpp", "endpoint", "offline_llama_cpp", "offline_vllm"] = "llama_cpp"
    """`rules`: no language model. `llama_cpp`: a GGUF file in this process. `endpoint`: any OpenAI-compatible server.
    `offline_llama_cpp`, `offline_vllm`: batches on a Ray cluster, for very many captions."""
    model: str = "embedded"
    """`embedded` (the small model of the embedded base: it proves the path, not the quality), a GGUF file, or the name
    that the endpoint or vLLM knows. Not used by `rules`."""
    revision: str | None = None
    """Commit of a hub name for `offline_vllm`, where it is required."""
    prompt: str = "slots@1"
    """A prompt of `radvqa list prompts`, or the path of your own file."""
    dialogue_prompt: str = "dialogue@1"
    """The prompt for chains of questions, used where `dialogues` is above 0."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 takes the likeliest token; above it replies are drawn with the recipe's seed."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability that tokens are drawn from."""
    max_tokens: int = Field(default=400, ge=16)
    """Longest reply in tokens; a longer one is cut and rejected."""
    url: str | None = None
    """Address of the endpoint, such as `http://localhost:8000/v1`."""
    api_key_variable: str | None = None
    """Name of the environment variable that holds the endpoint's key; the key itself never stands in a recipe."""
    json_schema: Literal["auto", "require", "off"] = "auto"
    """Whether the endpoint is asked to hold replies to a JSON schema. `auto` goes on without where it cannot, and says
    so; `require` stops."""
    concurrency: int = Field(default=8, ge=1)
    """Requests in flight at the endpoint at a time."""
    timeout_seconds: float = Field(default=120, gt=0)
    """Longest time for one request."""
    attempts: int = Field(default=5, ge=1)
    """Times a request is tried before its caption is counted as failed; it is asked again at the next start."""
    breaker_failures: int = Field(default=20, ge=1)
    """After so many failures in a row the synthesis stops and can be started again later."""
    price_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    """For the cost account; unknown when absent."""
    price_per_million_completion_tokens: float | None = Field(default=None, ge=0)
    """For the cost account; unknown when absent."""
    context_tokens: int = Field(default=2048, ge=256)
    """Context of llama.cpp and vLLM."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of llama.cpp in this process; all cores when absent."""
    workers: int | None = Field(default=None, ge=1)
    """Model copies of the offline backends; as many as there are cores (llama.cpp) or GPUs (vLLM) when absent."""
    ray_address: str | None = None
    """Ray cluster of the offline backends; one is started on this machine when absent."""
    wheels: Path | None = None
    """Folder with the wheel of the embedded model, for machines without a package index."""

    @model_validator(mode="after")
    def _fits_the_backend(self) -> "Generator":
        if self.backend != "endpoint" and self.url is not None:
            raise ValueError("url is that of an endpoint; set backend: endpoint")
        if self.backend == "endpoint" and self.url is None:
            raise ValueError("backend: endpoint needs url, such as http://localhost:8000/v1")
        if self.backend in ("endpoint", "offline_vllm") and self.model == "embedded":
            raise ValueError(f"backend: {self.backend} needs model, the name that it is known by there")
        if self.backend == "offline_vllm" and self.revision is None and not self.model.startswith((".", "/", "~")):
            raise ValueError(f"{self.model!r} is a hub name and needs revision: <commit>")
        return self

    @field_validator("api_key_variable")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("this is the name of an environment variable, never the key itself")
        return name


class Screens(Section):
    """What a pair must pass to be kept; docs/synthesis.md describes every screen."""

    off: tuple[str, ...] = ()
    """Names of screens that are not applied."""
    shortest_caption_words: int = Field(default=4, ge=1)
    """Shorter captions are not asked about."""
    longest_answer_words: int = Field(default=12, ge=1)
    """Longer answers are rejected."""
    near_duplicate: float = Field(default=0.9, gt=0, le=1)
    """Likeness above which two questions about one image are near-duplicates, where side, number, negation, sequence,
    plane and finding agree."""
    embeddings: bool = False
    """Measure that likeness with sentence embeddings (all-MiniLM-L6-v2, 84 MB, fetched once) instead of shared
    words."""
    yes_share: float | None = Field(default=0.5, gt=0, lt=1)
    """Share of yes among yes/no answers that is aimed at, in all and for each finding; absent for no rebalancing."""
    yes_tolerance: float = Field(default=0.02, ge=0, lt=0.5)
    """How far the share may stay from it."""


class SynthRecipe(StoredRecipe):
    """A whole synthesis."""

    page: ClassVar[str] = "synthesis_recipes.md"

    captions: Dataset
    """The data set whose captions are asked about: an adapter and its options, as under `datasets` of a run."""
    splits: tuple[Split, ...] = Field(default=("train",), min_length=1)
    """Splits that are asked about; each pair stays in the split of its caption."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many captions of all splits together, drawn by the seed; absent for all."""
    shared_captions: Literal["first", "all", "drop"] = "first"
    """What to do where several images share one caption, which rarely describes each of them: ask about the first image
    alone, about all of them, or about none."""
    facts: tuple[Literal["modality", "plane"], ...] = ("modality", "plane")
    """Tags of the data set that the generator may use beside the caption."""
    generator: Generator = Generator()
    """The model, or the rules, that write the questions."""
    questions: Mapping[Slot, int] = Field(default=dict.fromkeys(SLOTS, 1))
    """Questions per caption by what they ask for, one of each kind unless given; the model is asked for these slots and
    no others."""
    negatives: Literal["rule", "model", "both"] = "rule"
    """Who writes questions whose answer is no. `rule`: findings of the vocabulary that the caption does not mention,
    balanced against the yes questions; the weak spot of every small model."""
    styles: tuple[str, ...] = Field(default=("plain", "clinical"), min_length=1)
    """Wordings of the questions that a rule words; see docs/synthesis.md."""
    dialogues: int = Field(default=0, ge=0, le=4)
    """Turns of a chain of dependent questions per caption, 2 to 4; 0 for none. Needs a language model."""
    screens: Screens = Screens()
    """What a pair must pass to be kept."""
    most_failed: float = Field(default=0.05, ge=0, le=1)
    """A larger share of captions without a reply of the model is an error; the replies are kept."""

    @field_validator("questions", mode="before")
    @classmethod
    def _yes_is_no_truth(cls, counts: Any) -> Any:
        """YAML 1.1 reads the keys ``yes`` and ``no`` as true and false."""
        if not isinstance(counts, Mapping):
            return counts
        return {
            {True: "yes", False: "no"}.get(name, name) if isinstance(name, bool) else name: count
            for name, count in counts.items()
        }

    @field_validator("questions")
    @classmethod
    def _counts_are_sane(cls, counts: Mapping[str, int]) -> Mapping[str, int]:
        if any(not 0 <= count <= 5 for count in counts.values()):
            raise ValueError("counts go from 0 to 5 per caption")
        return {name: count for name, count in counts.items() if count}

    @field_validator("dialogues")
    @classmethod
    def _a_chain_has_two_turns(cls, turns: int) -> int:
        if turns == 1:
            raise ValueError("a chain has 2 to 4 turns")
        return turns

    @model_validator(mode="after")
    def _asks_something(self) -> "SynthRecipe":
        if not self.questions and not self.dialogues:
            raise ValueError("nothing would be asked: give questions or dialogues")
        if self.dialogues and self.generator.backend == "rules":
            raise ValueError("dialogues need a language model; set generator.backend to another one than rules")
        return self

    def what_changes_results(self) -> dict[str, Any]:
        """All but where things are and how fast or dear they are: a slower start must find what a faster one has."""
        values = self.resolved()
        del values["output"], values["most_failed"]
        for name in (
            "url", "api_key_variable", "concurrency", "timeout_seconds", "attempts", "breaker_failures",
            "price_per_million_prompt_tokens", "price_per_million_completion_tokens", "threads", "workers",
            "ray_address", "wheels",
        ):  # fmt: skip
            del values["generator"][name]
        return values
