"""What adapters have in common that change the model and leave its input alone."""

from collections.abc import Sequence

from softguard.models import LanguageModel, RenderedPrompt


class Inside:
    """An adapter with no virtual tokens: prompts stay as they are."""

    def virtual_tokens(self) -> None:
        """Return None: nothing is added to the input."""
        return None

    def extend(self, prompt: RenderedPrompt) -> list[int]:
        """Return the ids as they are."""
        return list(prompt.ids)

    def refusal(self, lm: LanguageModel, ids: Sequence[int]) -> list[int]:
        """Return the ids as they are."""
        return list(ids)
