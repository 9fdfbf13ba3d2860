"""Read providers' usage objects into `Usage`, whatever state they are in.

Pure functions over the decoded JSON (or an SDK object's `model_dump()`). They never raise: a
usage object is read after the money is spent, and a count that can't be read is one that we
don't know, not a reason to lose the answer. What they guarantee: no count is negative, no part
exceeds its whole, and the convention is the one that `Usage` states.

A stream's usage objects are running totals, not increments, at every provider here: read the last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from novellus_lab.types import Usage

_ABSURD = 10**12
"""No single call has this many tokens: a number beyond is an error of the server's."""


def openai_chat_usage(raw: object) -> Usage:
    """Read the usage of the Chat Completions API and of those who speak it.

    - Cached input stands in `prompt_tokens_details.cached_tokens` (OpenAI, Azure, OpenRouter,
      Groq, vLLM), `num_cached_tokens` (Mistral), `prompt_cache_hit_tokens` (DeepSeek),
      `cached_tokens` (Moonshot, Together) or `cache_read_input_tokens` (LiteLLM's proxy).
    - Cache writes stand in `prompt_tokens_details.cache_write_tokens` (OpenAI since GPT-5.6,
      OpenRouter) or `cache_creation_input_tokens` (LiteLLM's proxy).
    - xAI, and Google's compatible endpoint, leave reasoning out of `completion_tokens` but bill it
      as output; it shows in `total_tokens`. We add it where the sum proves that it is missing.
    """
    usage = _mapping(raw)
    inside = _mapping(usage.get("prompt_tokens_details") or usage.get("prompt_token_details"))
    out = _mapping(usage.get("completion_tokens_details"))
    prompt = _first(usage, "prompt_tokens")
    completion = _first(usage, "completion_tokens")
    reasoning = _first(out, "reasoning_tokens") or _first(usage, "reasoning_tokens")
    completion, reasoning = _with_missing_reasoning(
        prompt, completion, reasoning, _first(usage, "total_tokens")
    )
    return _consistent(
        input_tokens=prompt,
        output_tokens=completion,
        cached=_first(inside, "cached_tokens")
        or _first(
            usage,
            "prompt_cache_hit_tokens",
            "num_cached_tokens",
            "cached_tokens",
            "cache_read_input_tokens",
        ),
        written=_first(inside, "cache_write_tokens", "cache_creation_tokens")
        or _first(usage, "cache_creation_input_tokens"),
        written_1h=_first(
            _mapping(inside.get("cache_creation_token_details") or usage.get("cache_creation")),
            "ephemeral_1h_input_tokens",
        ),
        reasoning=reasoning,
        input_audio=_first(inside, "audio_tokens"),
        cached_audio=_first(_mapping(inside.get("cached_tokens_details")), "audio_tokens"),
        output_audio=_first(out, "audio_tokens"),
        web_searches=_searches(usage),
    )


def openai_embedding_usage(raw: object) -> Usage:
    """Read the usage of the Embeddings API. Some servers state the total alone."""
    usage = _mapping(raw)
    return _consistent(input_tokens=_first(usage, "prompt_tokens", "total_tokens"), output_tokens=0)


def openai_responses_usage(raw: object, web_searches: int = 0) -> Usage:
    """Read the usage of the Responses API.

    Args:
        web_searches: the searches that the response's own items show; OpenAI's usage object
            does not count them.
    """
    usage = _mapping(raw)
    inside = _mapping(usage.get("input_tokens_details"))
    out = _mapping(usage.get("output_tokens_details"))
    received = _first(usage, "input_tokens")
    produced, reasoning = _with_missing_reasoning(
        received,
        _first(usage, "output_tokens"),
        _first(out, "reasoning_tokens"),
        _first(usage, "total_tokens"),
    )
    return _consistent(
        input_tokens=received,
        output_tokens=produced,
        cached=_first(inside, "cached_tokens"),
        written=_first(inside, "cache_write_tokens"),
        reasoning=reasoning,
        input_audio=_first(inside, "audio_tokens"),
        cached_audio=_first(_mapping(inside.get("cached_tokens_details")), "audio_tokens"),
        output_audio=_first(out, "audio_tokens"),
        web_searches=max(_count(web_searches), _searches(usage)),
    )


def anthropic_usage(raw: object) -> Usage:
    """Read the usage of Anthropic's Messages API.

    Its `input_tokens` excludes what was read from and written to the cache: both are added.
    `cache_creation` splits the writes by lifetime, but the total may exceed the parts (or stand
    alone): what no part claims is the default lifetime of five minutes.

    With context compaction the top-level counts leave out the compaction's own sampling, which is
    billed at the same model: its `iterations` are added. Iterations of another model (the advisor
    tool) are billed at that model's prices, see `anthropic_other_models`.
    """
    usage = _mapping(raw)
    parts = [usage, *(i for i in _iterations(usage) if i.get("type") == "compaction")]
    fresh = sum(_first(part, "input_tokens") for part in parts)
    cached = sum(_first(part, "cache_read_input_tokens") for part in parts)
    written = written_1h = 0
    for part in parts:
        lifetimes = _mapping(part.get("cache_creation"))
        hour = _first(lifetimes, "ephemeral_1h_input_tokens")
        split = hour + _first(lifetimes, "ephemeral_5m_input_tokens")
        written += max(_first(part, "cache_creation_input_tokens"), split)
        written_1h += hour
    return _consistent(
        input_tokens=fresh + cached + written,
        output_tokens=sum(_first(part, "output_tokens") for part in parts),
        cached=cached,
        written=written,
        written_1h=written_1h,
        reasoning=_first(_mapping(usage.get("output_tokens_details")), "thinking_tokens"),
        web_searches=_searches(usage),
    )


def anthropic_other_models(raw: object) -> tuple[tuple[str, Usage], ...]:
    """Return what other models did inside a call (the advisor tool): (model, usage) for each."""
    usage = _mapping(raw)
    return tuple(
        (str(step["model"]), anthropic_usage(step))
        for step in _iterations(usage)
        if step.get("type") == "advisor_message" and step.get("model")
    )


def google_usage(raw: object) -> Usage:
    """Read Gemini's `usageMetadata`, in the wire's camelCase or the SDK's snake_case.

    `promptTokenCount` includes cached content, explicit or implicit. What tools fed back
    (`toolUsePromptTokenCount`) is billed as input beside it, thoughts as output beside the
    candidates.
    """
    usage = _mapping(raw)
    prompt = _first(usage, "promptTokenCount", "prompt_token_count")
    tool = _first(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count")
    said = _first(
        usage,
        "candidatesTokenCount",
        "candidates_token_count",
        "responseTokenCount",
        "response_token_count",
    )
    thoughts = _first(usage, "thoughtsTokenCount", "thoughts_token_count")
    said_as = (
        "candidatesTokensDetails",
        "candidates_tokens_details",
        "responseTokensDetails",
        "response_tokens_details",
    )
    return _consistent(
        input_tokens=prompt + tool,
        output_tokens=said + thoughts,
        cached=_first(usage, "cachedContentTokenCount", "cached_content_token_count"),
        reasoning=thoughts,
        input_audio=_of_modality("AUDIO", usage, "promptTokensDetails", "prompt_tokens_details")
        + _of_modality(
            "AUDIO", usage, "toolUsePromptTokensDetails", "tool_use_prompt_tokens_details"
        ),
        cached_audio=_of_modality("AUDIO", usage, "cacheTokensDetails", "cache_tokens_details"),
        output_audio=_of_modality("AUDIO", usage, *said_as),
        output_image=_of_modality("IMAGE", usage, *said_as),
    )


def ollama_usage(raw: object) -> Usage:
    """Read the counts of Ollama's last message. `prompt_eval_count` is absent for an empty prompt."""
    usage = _mapping(raw)
    return _consistent(
        input_tokens=_first(usage, "prompt_eval_count"),
        output_tokens=_first(usage, "eval_count"),
    )


def _consistent(
    *,
    input_tokens: int,
    output_tokens: int,
    cached: int = 0,
    written: int = 0,
    written_1h: int = 0,
    reasoning: int = 0,
    input_audio: int = 0,
    cached_audio: int = 0,
    output_audio: int = 0,
    output_image: int = 0,
    web_searches: int = 0,
) -> Usage:
    """Build a usage in which no part exceeds its whole."""
    cached = min(cached, input_tokens)
    written = min(written, input_tokens - cached)
    input_audio = min(input_audio, input_tokens)
    reasoning = min(reasoning, output_tokens)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(written_1h, written),
        reasoning_tokens=reasoning,
        input_audio_tokens=input_audio,
        cached_audio_tokens=min(cached_audio, cached, input_audio),
        output_audio_tokens=min(output_audio, output_tokens),
        output_image_tokens=min(output_image, output_tokens),
        web_searches=web_searches,
    )


def _with_missing_reasoning(
    received: int, produced: int, reasoning: int, total: int
) -> tuple[int, int]:
    """Add reasoning to the output where the total shows that the output leaves it out.

    Where the server states reasoning, the gap must be exactly that; a gap of any other size is
    something that we don't understand, and is left alone.
    """
    beyond = total - received - produced
    if received and beyond > 0 and reasoning in (0, beyond):
        return produced + beyond, beyond
    return produced, reasoning


def _searches(usage: Mapping[str, Any]) -> int:
    """Searches that the provider ran: Anthropic, OpenRouter (two spellings), xAI, Perplexity."""
    for name in ("server_tool_use", "server_tool_use_details", "server_side_tool_usage_details"):
        found = _first(_mapping(usage.get(name)), "web_search_requests", "web_search_calls")
        if found:
            return found
    return _first(usage, "num_search_queries")


def _of_modality(modality: str, usage: Mapping[str, Any], *names: str) -> int:
    """Sum the tokens of a modality in the first of these lists that is there."""
    for name in names:
        details = usage.get(name)
        if isinstance(details, list | tuple):
            return sum(
                _first(entry, "tokenCount", "token_count")
                for entry in map(_mapping, details)
                if str(entry.get("modality")).rpartition(".")[2].upper() == modality
            )
    return 0


def _iterations(usage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    steps = usage.get("iterations")
    return [_mapping(step) for step in steps] if isinstance(steps, list | tuple) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(holder: Mapping[str, Any], *names: str) -> int:
    """Return the first of these counts that says something, else 0."""
    for name in names:
        if found := _count(holder.get(name)):
            return found
    return 0


def _count(value: object) -> int:
    """Read a count: whole numbers, floats and digits in a string; anything else is 0."""
    if type(value) is int:
        return value if 0 < value < _ABSURD else 0
    if isinstance(value, str | Decimal):
        try:
            value = float(value)
        except ValueError:  # letters, a signalling NaN
            return 0
    if isinstance(value, float) and math.isfinite(value) and 0 < value < _ABSURD:
        return int(value)
    return 0
