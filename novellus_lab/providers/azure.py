"""Azure OpenAI, over the official `openai` SDK.

Both of its endpoints: the classic one, where a deployment stands in the path and an `api-version`
in the query, and `/openai/v1`, which is OpenAI's API under another host. A model's name in the
configuration is its deployment's name.

Reference: https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from novellus_lab.errors import ConfigurationError
from novellus_lab.providers.openai import DEFAULT_TIMEOUT_S, OpenAIProvider

if TYPE_CHECKING:
    import httpx2
    import openai

    from novellus_lab.providers.base import ProviderConfig

_PREVIEWS = frozenset({"preview", "latest"})
_V1 = _PREVIEWS | {"v1"}
"""Values of `api_version` that mean the `/openai/v1` endpoint."""
_BY_DEPLOYMENT = frozenset({"/chat/completions", "/embeddings"})
"""Paths that the classic endpoint keeps under each deployment."""


class AzureOpenAIProvider(OpenAIProvider):
    """Azure OpenAI's chat completions, responses and embeddings.

    Endpoint: `base_url`, the option `azure_endpoint`, or AZURE_OPENAI_ENDPOINT. One that ends in
    `/openai/v1` selects that API; so does leaving the version out.

    Options, besides those of `OpenAIProvider`:
        api_version: else AZURE_OPENAI_API_VERSION, else OPENAI_API_VERSION; `v1` or `preview` for
            the newer endpoint.
        deployments: model name -> deployment name, where they differ.
    """

    name: ClassVar[str] = "azure"
    own_endpoints: ClassVar[bool] = True
    api_key_envs: ClassVar[tuple[str, ...]] = ("AZURE_OPENAI_API_KEY",)
    _batch_prefix: ClassVar[str] = ""

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        endpoint, version, self._v1 = _where(config)
        self._endpoint, self._version = endpoint, version
        deployments = config.options.get("deployments") or {}
        self._deployments: dict[str, str] = dict(deployments)

    @classmethod
    def unavailable_because(cls, config: ProviderConfig) -> str | None:
        # Never without a key, whatever the base_url: this is always Azure.
        reason = super(OpenAIProvider, cls).unavailable_because(config)
        if reason is None and _where(config)[0] is None:
            return "AZURE_OPENAI_ENDPOINT is not set"
        return reason

    def _make_client(self, http_client: httpx2.AsyncClient | None) -> openai.AsyncOpenAI:
        import openai

        if self._endpoint is None or self._secret is None:
            raise ConfigurationError(f"azure: {type(self).unavailable_because(self.config)}")
        # What the SDK reads of these in the environment is OpenAI's business, not Azure's.
        headers: dict[str, Any] = {
            "OpenAI-Organization": openai.Omit(),
            "OpenAI-Project": openai.Omit(),
            **(self.config.options.get("headers") or {}),
        }
        if self._v1:
            return openai.AsyncOpenAI(
                api_key=self._secret,
                base_url=f"{self._endpoint}/openai/v1",
                max_retries=0,
                timeout=DEFAULT_TIMEOUT_S,
                default_headers=headers,
                default_query={"api-version": self._version} if self._version else None,
                http_client=http_client,
            )
        return openai.AsyncAzureOpenAI(
            api_key=self._secret,
            azure_endpoint=self._endpoint,
            api_version=self._version,
            max_retries=0,
            timeout=DEFAULT_TIMEOUT_S,
            default_headers=headers,
            http_client=http_client,
        )

    def _wire_model(self, model: str) -> str:
        return self._deployments.get(model, model)

    def _path(self, path: str, model: str) -> str:
        if self._v1 or path not in _BY_DEPLOYMENT:
            return path
        return f"/deployments/{quote(self._wire_model(model), safe='')}{path}"

    def _base_url(self) -> str | None:
        return self._endpoint

    def _is_first_party(self) -> bool:
        return True


def _where(config: ProviderConfig) -> tuple[str | None, str | None, bool]:
    """Return the endpoint without its path, the API version, and whether it is `/openai/v1`."""
    options = config.options
    given = (
        config.base_url or options.get("azure_endpoint") or os.environ.get("AZURE_OPENAI_ENDPOINT")
    )
    version = (
        options.get("api_version")
        or os.environ.get("AZURE_OPENAI_API_VERSION")
        or os.environ.get("OPENAI_API_VERSION")
    )
    if not given:
        return None, version, False
    parts = urlsplit(str(given))
    before, found, after = parts.path.partition("/openai")
    endpoint = urlunsplit((parts.scheme, parts.netloc, before.rstrip("/"), "", ""))
    asked = parse_qs(parts.query).get("api-version", [None])[0]
    if found and after.strip("/").split("/")[0] == "v1":
        # A version here can only be a preview's: dated ones belong to the classic endpoint.
        version = asked or (version if version in _PREVIEWS else None)
        return endpoint, version, True
    version = asked or version
    if version is None or version in _V1:
        return endpoint, version if version in _PREVIEWS else None, True
    return endpoint, str(version), False
