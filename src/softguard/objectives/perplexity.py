"""The perplexity baseline: next-token negative log-likelihood of the training text, mean over tokens.

The training text is the prompts: the method trains on prompts alone. Neither guard nor draft plays a part, so it says what the
loop and the data do without any target. The rendered prompt counts as a whole, template included; virtual tokens are no targets,
and those behind the user's turn see nothing but the template's closing tokens: place them in front. After the assistant header
they would see nothing at all, which a run refuses.

References:
    Alfarra et al. 2026, arXiv 2606.09388, section 4, baselines; they do not say whether the text has responses in it.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from softguard.objectives.protocol import OBJECTIVES, Need, ObjectiveInput, ObjectiveOutput


class PerplexityConfig(BaseModel):
    """No settings of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["perplexity"] = "perplexity"


@OBJECTIVES.register("perplexity")
class Perplexity:
    """The loss of this module."""

    needs: frozenset[Need] = frozenset({"text"})
    branch_floor = 0.0
    answer_tokens = 0

    def __init__(self, config: PerplexityConfig) -> None:
        self._config = config

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return -mean log q(x_t | x_<t) over the tokens of all rows: a long prompt weighs more. Logs its exponential."""
        assert batch.text is not None
        loss = -batch.text.log_probs().mean()
        return ObjectiveOutput(loss, {"perplexity": float(loss.detach().exp())})
