"""Detect-Jailbreak: what people wrote to get round rules, whole; the paper asks 500 of them."""

from softguard.data.detect_jailbreak import detect_jailbreak
from softguard.evaluation.suites.suite import SUITES, Suite

DETECT_JAILBREAK = SUITES.register("detect_jailbreak")(
    Suite(
        title="Detect-Jailbreak, 500",
        source="Guardrails AI; huggingface.co/datasets/GuardrailsAI/detect-jailbreak",
        licence="MIT",
        size=500,
        metric=(
            "precision and recall of a detector of such prompts; the paper (Alfarra et al. 2026): SGS on 500; ours: by the named "
            "judge, on 500 that need not be the paper's"
        ),
        load=detect_jailbreak,
        groups=("safety",),
    )
)
