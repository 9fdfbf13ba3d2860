"""Every error that this package raises on purpose.

```
NovellusError
├── ConfigurationError            a setting, a YAML key or an environment variable is wrong
│   └── MissingDependencyError    an optional package is needed for what was asked
├── InvalidRequestError           the call itself is wrong; nothing was sent, nothing was spent
│   ├── UnknownModelError
│   ├── UnknownStrategyError
│   └── UnsupportedParameterError the chosen provider can't honour a parameter
├── NoModelAvailableError         no candidate was left to send the request to
├── DeadlineExceededError         the call's total deadline passed
├── ProviderError                 a provider said no, or could not be heard
│   ├── AuthenticationError
│   ├── RateLimitError            carries retry_after_s
│   │   └── LimitExceededError    our own limit, not the provider's; nothing was sent
│   ├── ProviderTimeoutError
│   ├── ContextWindowExceededError
│   ├── ContentFilteredError
│   ├── BadRequestError
│   └── ProviderUnavailableError  connection lost, 5xx, an answer that can't be read
│       └── CircuitOpenError      our own breaker, not the provider; nothing was sent
├── BudgetError                   a budget does not allow the call; nothing was sent
│   ├── BudgetExceededError       it would not fit
│   └── UnknownPriceError         nobody knows whether it would fit
├── ResponseParseError            the answer does not fit the asked-for response_format
├── QueueError                    a queued request
│   ├── UnknownJobError           no such job, or it was forgotten since
│   ├── JobNotDoneError           not yet, within the time that was given
│   ├── JobCancelledError
│   └── NoWorkerError             no worker is there to run it
├── WebhookError                  who listens at a webhook did not take what was sent
└── StoreError                    the log and cache database
    ├── HomeNotWritableError
    ├── StoreUnavailableError
    ├── ExtensionMissingError     pgvector is not on the server
    └── SchemaVersionError        the schema is older or newer than this package
```

A message says what was wrong, where, and what to do. It never holds a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal


class NovellusError(Exception):
    """Base class of every error in this package."""


class ConfigurationError(NovellusError):
    """A configuration value is missing or wrong; the message names file, key and what is allowed."""


class MissingDependencyError(ConfigurationError):
    """An optional package is needed; the message holds the command that installs it."""


class InvalidRequestError(NovellusError, ValueError):
    """The call is wrong. Raised before anything is sent or spent."""


class UnknownModelError(InvalidRequestError):
    """No configured model has this id; the message offers the nearest ones."""


class UnknownStrategyError(InvalidRequestError):
    """No routing strategy has this name; the message lists those that exist."""


class UnsupportedParameterError(InvalidRequestError):
    """The provider can't honour a parameter, and dropping it was not allowed.

    Set `on_unsupported: drop` on the model or its provider to send the request without it
    (the drop is then recorded in `dropped_params`).
    """


class NoModelAvailableError(NovellusError):
    """No candidate could be tried: none configured, none with a key, none that fits."""


class DeadlineExceededError(NovellusError, TimeoutError):
    """The total deadline of a call (its `timeout`) passed, retries and failovers included."""


class ProviderError(NovellusError):
    """A provider call failed.

    Attributes:
        model: our model id, as in `lab.complete(model_id=...)`.
        provider: the provider's name.
        status_code: HTTP status, if one was received.
        retry_after_s: seconds that the provider asked us to wait, if it did.
        provider_request_id: the provider's own id of the call, for its support.
        retryable: whether the same call may succeed on the same model a moment later.
    """

    retryable: bool = False
    code: str = "provider_error"

    def __init__(
        self,
        message: str,
        *,
        model: str | None = None,
        provider: str | None = None,
        status_code: int | None = None,
        retry_after_s: float | None = None,
        provider_request_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.model = model
        self.provider = provider
        self.status_code = status_code
        self.retry_after_s = retry_after_s
        self.provider_request_id = provider_request_id
        self.partial_content: str | None = None
        """Text of a stream that broke half-way: it was paid for, and is here."""
        self.never_sent = False
        """Whether there was no connection to send it through: surely nothing was spent."""
        if retryable is not None:
            self.retryable = retryable


class AuthenticationError(ProviderError):
    """The key is wrong, expired, or may not use this model."""

    code = "authentication"


class RateLimitError(ProviderError):
    """Too many requests or tokens; `retry_after_s` says how long to wait, if the provider said so."""

    retryable = True
    code = "rate_limit"


class LimitExceededError(RateLimitError):
    """A limit of ours (requests, tokens, calls at once) left no room in time; nothing was sent.

    `retry_after_s` says when there will be room, as far as that can be known. `retryable` is False
    where there never will be: the prompt alone is longer than what the limit allows in one go.
    """

    code = "limit_exceeded"

    def __init__(self, message: str, *, limit: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit = limit
        """Whose, and of what: `gpt-4o: tpm`."""
        self.never_sent = True


class ProviderTimeoutError(ProviderError, TimeoutError):
    """The provider did not answer in the time that this attempt had."""

    retryable = True
    code = "timeout"


class ContextWindowExceededError(ProviderError):
    """Prompt and answer do not fit the model's context window."""

    code = "context_window_exceeded"


class ContentFilteredError(ProviderError):
    """The provider's safety system refused the prompt or withheld the answer."""

    code = "content_filtered"


class BadRequestError(ProviderError):
    """The provider rejected the request as malformed."""

    code = "bad_request"


class ProviderUnavailableError(ProviderError):
    """The provider can't be reached, failed inside, or sent what can't be read."""

    retryable = True
    code = "unavailable"


class CircuitOpenError(ProviderUnavailableError):
    """The model failed too often of late and is not called for a while; nothing was sent."""

    retryable = False
    code = "circuit_open"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.never_sent = True


class BudgetError(NovellusError):
    """A hard budget stands against the call. Raised before anything is sent or spent.

    Attributes:
        budget: its name.
        model_only: whether it is a budget of this one model, so that another may still be asked.
    """

    def __init__(self, message: str, *, budget: str, model_only: bool = False) -> None:
        super().__init__(message)
        self.budget = budget
        self.model_only = model_only


class BudgetExceededError(BudgetError):
    """What the call may cost at most does not fit into what is left of the budget.

    Attributes:
        needed_usd: upper estimate of the call's cost.
        left_usd: of the budget, after what was spent and what calls under way have reserved.
        resets_at: when the next period begins; None: never.
    """

    def __init__(
        self,
        message: str,
        *,
        budget: str,
        model_only: bool = False,
        needed_usd: Decimal | None = None,
        left_usd: Decimal | None = None,
        resets_at: datetime | None = None,
    ) -> None:
        super().__init__(message, budget=budget, model_only=model_only)
        self.needed_usd = needed_usd
        self.left_usd = left_usd
        self.resets_at = resets_at


class UnknownPriceError(BudgetError):
    """The model's price is not known, and a hard budget holds: it can't be said whether it fits."""


class ResponseParseError(NovellusError, ValueError):
    """The answer is no valid JSON, or does not fit the schema that `response_format` asked for.

    The answer itself was paid for, logged, and is in `content`.
    """

    def __init__(self, message: str, *, content: str) -> None:
        super().__init__(message)
        self.content = content


class QueueError(NovellusError):
    """Something is wrong with a queued request. What its call itself met is raised as that."""


class UnknownJobError(QueueError, LookupError):
    """There is no such job in this database, or it ended so long ago that it was forgotten."""


class JobNotDoneError(QueueError, TimeoutError):
    """The job has not ended within the time that its result was waited for. It goes on."""


class JobCancelledError(QueueError):
    """The job was cancelled: there is no result."""


class NoWorkerError(QueueError):
    """No worker is there to run a job; the message holds the command that starts one."""


class WebhookError(NovellusError):
    """Who listens at a webhook did not take what was sent; the message names its host alone."""


class StoreError(NovellusError):
    """Something is wrong with the log and cache database."""


class HomeNotWritableError(StoreError):
    """The lab's home directory can't be created or written."""


class StoreUnavailableError(StoreError):
    """PostgreSQL can't be started or reached."""


class ExtensionMissingError(StoreError):
    """The server lacks the pgvector extension, or we may not create it."""


class SchemaVersionError(StoreError):
    """The database's schema is newer than this package, or older and must be migrated first."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a sentence that offers the nearest known names, or lists them if none is near."""
    import difflib

    lowered = {k.lower(): k for k in known}
    asked = name.lower()
    near = [lowered[k] for k in lowered if len(asked) > 2 and asked in k][:3]
    near = near or [lowered[m] for m in difflib.get_close_matches(asked, lowered, n=3)]
    if near:
        return "Did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not known:
        return "None is configured."
    shown = ", ".join(sorted(known)[:12])
    return f"Known: {shown}{', …' if len(known) > 12 else ''}."
