"""All names that we give to OpenTelemetry.

Those of `gen_ai.*` are of the GenAI semantic conventions
(github.com/open-telemetry/semantic-conventions-genai), which are in development and have no release:
looked up in November 2026, to be changed here and nowhere else. What they have no name for is
`novellus.*`.
"""

from __future__ import annotations

SCOPE = "novellus_lab"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
CONVERSATION = "gen_ai.conversation.id"
OUTPUT_TYPE = "gen_ai.output.type"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TTFC = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
EMBEDDING_DIMENSIONS = "gen_ai.embeddings.dimension.count"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105

ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

REQUEST_PARAMS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "dimensions": EMBEDDING_DIMENSIONS,
}
"""By the names of our own arguments."""
DOUBLES = {"temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty"}
"""Arguments that the conventions want as floating point, also where somebody wrote 1."""

OPERATIONS = {"chat": "chat", "embedding": "embeddings"}
PROVIDERS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "google": "gcp.gemini",
}
"""By our names of providers; others keep theirs."""

# Metrics, with the bounds that the conventions give.
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105
OPERATION_DURATION = "gen_ai.client.operation.duration"
TIME_TO_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TOKEN_BOUNDS = tuple(4**power for power in range(14))
DURATION_BOUNDS_S = tuple(0.01 * 2**power for power in range(14))

REQUEST_ID = "novellus.request.id"
STATUS = "novellus.status"
CACHE_OUTCOME = "novellus.cache.outcome"
COST = "novellus.cost_usd"
STRATEGY = "novellus.route.strategy"
RULE = "novellus.route.rule"
ATTEMPTS = "novellus.attempts"
ATTEMPT_NUMBER = "novellus.attempt.number"
ATTEMPT_ROLE = "novellus.attempt.role"
STATUS_CODE = "http.response.status_code"
EXPERIMENT = "novellus.experiment"
ARM = "novellus.arm"
TAG = "novellus.tag."
REQUESTS = "novellus.requests"
REQUEST_COST = "novellus.cost"
