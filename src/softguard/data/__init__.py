"""Prompts: our own, shipped in the package, and loaders by name for public sets. A new set is one file here."""

from softguard.data.prompt import PromptRow, Split, mentions_minors
from softguard.data.registry import PROMPT_SETS, data_folder, load_prompts
from softguard.registry import discover

discover(__name__, [p for p in __path__])

__all__ = ["PROMPT_SETS", "PromptRow", "Split", "data_folder", "load_prompts", "mentions_minors"]
