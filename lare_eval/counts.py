"""Token counts of one answer, in the form in which lmms-eval keeps them whole."""

from __future__ import annotations

from typing import Any

from lmms_eval.api.instance import TokenCounts

__all__ = ["Counts"]


class Counts(dict[str, int], TokenCounts):  # type: ignore[misc]
    """`TokenCounts` that are a dictionary as well.

    The evaluator writes whatever `to_dict` gives beside each sample, so further counts can ride along; and its response
    cache (``--use_cache``) keeps the counts of a dictionary, where it drops those of a plain `TokenCounts`.

    Args:
        input_tokens: Prompt tokens, visual tokens included.
        output_tokens: Generated text tokens up to the end token.
        reasoning_tokens: Latent steps.
        **further: More counts, by name.
    """

    def __init__(self, input_tokens: int, output_tokens: int, reasoning_tokens: int, **further: int) -> None:
        dict.__init__(
            self,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            reasoning_tokens=reasoning_tokens,
            **further,
        )
        TokenCounts.__init__(self, input_tokens, output_tokens, reasoning_tokens)

    def to_dict(self) -> dict[str, Any]:
        """All counts."""
        return dict(self)
