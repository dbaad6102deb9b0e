"""OpenAI's `usage`, made of the counts on record: what a client is told is what its row says. Pure."""

import msgspec

from tokenworks.metering.model import Counts


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """OpenAI's details of a prompt."""

    cached_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """OpenAI's `usage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


def usage_object(counts: Counts) -> Usage:
    """OpenAI's `usage` for the counts on record."""
    return Usage(
        counts.input_tokens,
        counts.output_tokens,
        counts.input_tokens + counts.output_tokens,
        PromptTokensDetails(counts.cached_input_tokens),
    )
