"""The licence of each prompt set, for the cards of what was trained on it. A test holds it against the loaders' own headers."""

from collections.abc import Mapping

LICENCES: Mapping[str, str] = {
    "softguard": "Apache-2.0",
    "softguard_tasks": "Apache-2.0",
    "softguard_pairs": "Apache-2.0",
    "advbench": "MIT",
    "ailuminate": "CC BY 4.0",
    "ailuminate_practice": "CC BY 4.0",
    "alpaca_heldout": "CC BY-NC",
    "beavertails_bad": "CC BY-NC",
    "beavertails_good": "CC BY-NC",
    "beavertails_test": "CC BY-NC",
    "beavertails_test_safe": "CC BY-NC",
    "cast": "Apache-2.0",
    "catqa": "Apache-2.0",
    "coconot_contrast": "MIT",
    "detect_jailbreak": "MIT",
    "do_not_answer": "CC BY-NC-SA",
    "gsm8k_test": "MIT",
    "gsm8k_train": "MIT",
    "harmbench": "MIT",
    "harmbench_standard": "MIT",
    "harmbench_val": "MIT",
    "ifeval": "Apache-2.0",
    "inthewild_jailbreaks": "Apache-2.0",
    "jailbreakbench": "MIT",
    "malicious_instruct": "no licence stated",
    "mmlu": "MIT",
    "mt_bench": "Apache-2.0",
    "oktest": "no licence stated",
    "openai_moderation": "MIT",
    "or_bench": "CC BY 4.0",
    "simple_safety_tests": "CC BY-NC 4.0",
    "sorry_bench": "its own licence",
    "strongreject": "MIT",
    "toxigen": "no licence stated",
    "xstest": "CC BY 4.0",
}


def set_licence(name: str) -> str | None:
    """Return the licence of a prompt set, None where we know of none: a user's own file, or a set of a third party."""
    return LICENCES.get(name)
