"""Opens the language model that a recipe names."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from radvqa.errors import RecipeError
from radvqa.llm import Sampling, TextModel
from radvqa.recipe import Generator


def open_text_model(generator: Generator, *, seed: int, say: Callable[[str], None]) -> TextModel:
    """The model of the section ``generator``; it must be closed after use.

    Raises:
        ModelError: it cannot be opened or reached.
        RecipeError: the section asks for no model, or names an environment variable that is not set.
        RunError: Ray cannot be started.
    """
    sampling = Sampling(
        temperature=generator.temperature, top_p=generator.top_p, seed=seed, max_tokens=generator.max_tokens
    )
    if generator.backend == "endpoint":
        from radvqa.llm.endpoint import EndpointModel

        return EndpointModel(
            url=generator.url or "",
            model=generator.model,
            sampling=sampling,
            api_key=_secret(generator.api_key_variable),
            concurrency=generator.concurrency,
            timeout_seconds=generator.timeout_seconds,
            attempts=generator.attempts,
            json_schema=generator.json_schema,
            breaker_failures=generator.breaker_failures,
            say=say,
        )
    if generator.backend == "llama_cpp":
        from radvqa.llm.llama_cpp import LlamaCppModel

        return LlamaCppModel(
            _gguf(generator.model),
            sampling=sampling,
            context_tokens=generator.context_tokens,
            threads=generator.threads,
            wheels=generator.wheels,
            say=say,
        )
    if generator.backend == "rules":
        raise RecipeError(
            "rules are no language model",
            where="generator.backend",
            expected="llama_cpp, endpoint, offline_llama_cpp or offline_vllm",
            got="rules",
            fix="choose one of them, or leave out what needs a language model",
        )
    from radvqa.llm.offline import OfflineLlamaCpp, OfflineModel, OfflineVllm

    if generator.backend == "offline_llama_cpp":
        llama = OfflineLlamaCpp.prepared(
            _gguf(generator.model),
            sampling=sampling,
            context_tokens=generator.context_tokens,
            wheels=generator.wheels,
            say=say,
        )
        return OfflineModel(llama, workers=generator.workers, address=generator.ray_address)
    vllm = OfflineVllm.prepared(
        generator.model, sampling=sampling, revision=generator.revision, context_tokens=generator.context_tokens
    )
    return OfflineModel(vllm, workers=generator.workers, address=generator.ray_address)


def _gguf(model: str) -> Path | Literal["embedded"]:
    return "embedded" if model == "embedded" else Path(model).expanduser()


def _secret(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise RecipeError(
            "the environment variable with the key of the endpoint is not set",
            where=f"generator.api_key_variable: {variable}",
            fix=f"set it before the start, e.g. export {variable}=..., or take this key out of the recipe",
        )
    return os.environ[variable]
