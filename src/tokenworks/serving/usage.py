"""OpenAI's `usage`, made of the counts on record: what a client is told is what its row says. Pure."""

from typing import Annotated

import msgspec

from tokenworks.metering.model import Counts

Tokens = Annotated[int, msgspec.Meta(ge=0, le=999_999_999_999_999)]


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """OpenAI's details of a prompt."""

    cached_tokens: Tokens = 0


class Usage(msgspec.Struct, frozen=True):
    """OpenAI's `usage`."""

    prompt_tokens: Tokens
    completion_tokens: Tokens
    total_tokens: Tokens
    prompt_tokens_details: PromptTokensDetails | None = None


def usage_object(counts: Counts) -> Usage:
    """OpenAI's `usage` for the counts on record."""
    return Usage(
        counts.input_tokens,
        counts.output_tokens,
        counts.input_tokens + counts.output_tokens,
        PromptTokensDetails(counts.cached_input_tokens),
    )
