"""A chat template that puts the virtual tokens' names where training puts the virtual tokens.

The one idea: the model's own template becomes a macro, and what it renders is cut at the slots and put together again with the
names in between. So any template is served, and none is edited. Whether it comes out right is tried on real conversations
(`check_template`), never assumed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from softguard.core import Conversation, Message
from softguard.errors import CompatibilityError
from softguard.models import ChatRenderer
from softguard.models.chat import BEHIND, THINKING, Slot

_BODY, _WHOLE, _CLOSED = "softguard_body", "softguard_whole", "softguard_closed"
_BLANK_PROBE = " SYSTEMPROBE\n"
_ADVICE = "choose another placement, or report this template"
PROBES = (
    Conversation.from_prompt("Name a tree."),
    Conversation.from_prompt("  Two lines,\n\nand blanks. ", system="Be brief."),
    Conversation.from_prompt("Where is Zürich? 東京は?", system="Antworte höflich.\n\nIn one line. "),
    Conversation((Message("user", "Hello!"), Message("assistant", "Hello, how are you?"), Message("user", "Well. {{ you }}?"))),
    Conversation(
        (
            Message("system", "Be brief."),
            Message("user", "One."),
            Message("assistant", "Two."),
            Message("user", "Three."),
            Message("assistant", "Four."),
            Message("user", "Five {% if %}."),
        )
    ),
)
"""Conversations that templates treat in different ways: with and without a system turn, with blanks, scripts and histories."""


def bake_template(template: str, names: Mapping[Slot, str], tokenizer: Any) -> str:
    """Return a template that renders as `template` does with `names` put in at their slots; the front needs no cutting.

    Args:
        template: the model's own, which `tokenizer` has too.
        names: the names of a slot's virtual tokens, joined.
        tokenizer: renders the probes that say where a slot is.

    Raises:
        CompatibilityError: a slot that this template does not have in every conversation.
    """
    body = template.removesuffix("\n")  # Jinja drops one newline at a template's end, but not at a macro's
    if THINKING in body:  # training renders without; a runtime would take the template's own default
        body = f"{{% set {THINKING} = false %}}{body}"
    front = names.get("front", "")
    if set(names) <= {"front"}:
        return front + body
    pieces, last = [], "0"
    for slot in get_args(Slot):
        if slot in names and slot != "front":
            pieces += [f"{{{{ {_WHOLE}[{last}:softguard_{slot}] }}}}", _when(slot, names[slot])]
            last = f"softguard_{slot}"
    return "".join(
        (
            f"{{% macro {_BODY}(add_generation_prompt) %}}{body}{{% endmacro %}}",
            f"{{% set {_CLOSED} = {_BODY}(false) %}}",
            f"{{% set {_WHOLE} = {_BODY}(true) if add_generation_prompt else {_CLOSED} %}}",
            *(_position(slot, tokenizer) for slot in names if slot != "front"),
            front,
            *pieces,
            f"{{{{ {_WHOLE}[{last}:] }}}}",
        )
    )


def check_template(
    template: str,
    tokenizer: Any,
    layout: Sequence[tuple[Slot, int]],
    names: Sequence[str],
    probes: Sequence[Conversation] = PROBES,
) -> None:
    """Render conversations with the new template and compare with the ids that training gives them.

    Raises:
        CompatibilityError: a conversation that comes out otherwise.
    """
    renderer = ChatRenderer(tokenizer)
    for probe in probes:
        wanted = renderer.render(probe).insert(layout)
        text = tokenizer.apply_chat_template(probe.to_dicts(), chat_template=template, tokenize=False, add_generation_prompt=True)
        if split_ids(text, names, tokenizer) != wanted:
            roles = ", ".join(m.role for m in probe.messages)
            raise CompatibilityError("a template that renders as in training", f"another text for turns of {roles}", _ADVICE)


def split_ids(text: str, names: Sequence[str], tokenizer: Any) -> list[int]:
    """Return the ids of a rendered text with name k as -(k + 1), as a runtime splits at special tokens before all else."""
    out: list[int] = []
    rest = text
    while rest:
        found = sorted((at, k) for k, name in enumerate(names) if (at := rest.find(name)) >= 0)
        at, k = found[0] if found else (len(rest), -1)
        out += [int(i) for i in tokenizer(rest[:at], add_special_tokens=False)["input_ids"]] if at else []
        if k < 0:
            break
        out.append(-(k + 1))
        rest = rest[at + len(names[k]) :]
    return out


def _when(slot: Slot, text: str) -> str:
    """Names behind the user's turn belong to the assistant's header: without one there is nothing to answer."""
    return f"{{% if add_generation_prompt %}}{text}{{% endif %}}" if slot in BEHIND else text


def _position(slot: Slot, tokenizer: Any) -> str:
    """Return the statement that sets where in the whole text a slot is."""
    renderer = ChatRenderer(tokenizer)
    name = f"softguard_{slot}"
    if slot in BEHIND:
        return f"{{% set {name} = {_CLOSED if slot == 'after_user' else _WHOLE}|length %}}"
    if slot == "after_bos":
        bos = tokenizer.bos_token or ""
        opens = renderer.user_opening.startswith(bos) and not renderer.bos_opens_turns
        return f"{{% set {name} = {_length(bos) if opens else 0} %}}"
    around = renderer.around_system
    if around is None or not renderer.user_opening.endswith(around[1]):
        raise CompatibilityError("a template with a system turn in every conversation", "one without", _ADVICE)
    before, after = around
    own = _length(renderer.user_opening) - _length(after)
    if own < _length(before):
        raise CompatibilityError("a template with a system turn in every conversation", "one without", _ADVICE)
    turns = [{"role": "system", "content": _BLANK_PROBE}, {"role": "user", "content": "x"}]
    kept = before + _BLANK_PROBE in tokenizer.apply_chat_template(turns, tokenize=False)
    content = "messages[0]['content']" if kept else "(messages[0]['content']|trim)"
    given = f"{_length(before)} + {content}|length"
    either = f"{{% set {name} = {given} %}}{{% else %}}{{% set {name} = {own} %}}"
    return f"{{% if messages[0]['role'] == 'system' %}}{either}{{% endif %}}"


def _length(text: str) -> int:
    """Return a text's length, where runtimes that count bytes and those that count characters agree."""
    if not text.isascii():
        raise CompatibilityError("a template of plain ASCII before the slot", "other characters", _ADVICE)
    return len(text)
