"""Keep keys out of messages: providers echo parts of them when they reject one."""

from __future__ import annotations

import re

_KEY_LIKE = re.compile(
    r"""
    \b(?:sk|gsk|csk|xai|hf|nvapi|pplx)[-_][\w*.…-]{6,}        # vendors' prefixes
    | \bAIza[\w*-]{8,}                                         # Google
    | \beyJ[\w-]{8,}(?:\.[\w-]+){0,2}                          # JSON web tokens
    | (?<=[Bb]earer\s)[\w.*+/=~-]{6,}                          # an Authorization header
    | (?<![\w*])\w*\*{3,}[\w*]*                                      # already masked, in part
    | (?<=[Kk]ey\sprovided:\s)\S+
    """,
    re.VERBOSE,
)

MASK = "[key]"


def redact(text: str, *secrets: str | None) -> str:
    """Replace the given secrets, and whatever looks like a key, by `[key]`.

    Secrets shorter than four characters are left alone: they are placeholders, and replacing them
    would garble the text.
    """
    for secret in secrets:
        if secret and len(secret) >= 4:
            text = text.replace(secret, MASK)
    return _KEY_LIKE.sub(MASK, text)
