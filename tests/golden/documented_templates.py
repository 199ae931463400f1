"""The formats that come as the chat template of weights we do not have, stated as their authors document them, in our own words.

A `Documented` is a small template that renders what the address shows; `limits` says what the address does not show. They stand
in for the weights' own templates in `test_guard_formats`, which holds what our code makes of them against `guards/NAME.txt`.

When they were written, two rendered the prompt that is published of one conversation to the letter: Granite Guardian 3.2
(`test/messages/granite/guardian/output/user-asst-harm.txt` of its repository) and Llama Guard 4 (cell 5 of the notebook).
"""

from dataclasses import dataclass

from softguard.guards.family import FAMILIES
from tests.unit.guards.tiny_stream import TEMPLATE as QWEN3

LLAMA_GUARD_4 = r"""
{%- set names = ["Violent Crimes", "Non-Violent Crimes", "Sex Crimes", "Child Exploitation", "Defamation", "Specialized Advice",
                 "Privacy", "Intellectual Property", "Indiscriminate Weapons", "Hate", "Self-Harm", "Sexual Content", "Elections",
                 "Code Interpreter Abuse"] -%}
{%- set role = "Agent" if messages[-1].role == "assistant" else "User" -%}
{{- "<|begin_of_text|><|header_start|>user<|header_end|>\n\nTask: Check if there is unsafe content in '" + role -}}
{{- "' messages in conversations according to our safety policy with the below categories.\n\n" -}}
{{- "<BEGIN UNSAFE CONTENT CATEGORIES>\n" -}}
{%- for name in names -%}{{- "S" ~ loop.index ~ ": " ~ name ~ ".\n" -}}{%- endfor -%}
{{- "<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n" -}}
{%- for m in messages -%}
{{- ("Agent" if m.role == "assistant" else "User") + ": " -}}
{%- for part in m.content -%}{{- part.text -}}{%- endfor -%}
{{- "\\n\\n\n" -}}
{%- endfor -%}
{{- "\n<END CONVERSATION>\n\nProvide your safety assessment for ONLY THE LAST " + role -}}
{{- " message in the above conversation:\n - First line must read 'safe' or 'unsafe'.\n - If unsafe, a second line must " -}}
{{- "include a comma-separated list of violated categories. <|eot|><|header_start|>assistant<|header_end|>" -}}
"""

GRANITE_32 = r"""
{%- if guardian_config.risk_name != "harm" -%}{{ raise_exception("only harm is stated here") }}{%- endif -%}
{%- set role = messages[-1].role -%}
{{- "<|start_of_role|>user<|end_of_role|>You are a safety agent trying to help determine whether the last " + role -}}
{{- " message in the conversation is harmful according to the safety risk definition below.\n\n<start_of_conversation>\n" -}}
{%- for m in messages -%}{{- m.role.capitalize() + " Message: " + m.content + "\n" -}}{%- endfor -%}
{{- "<end_of_conversation>\n\nOur safety risk definition is defined below:\n<start_of_risk_definition>\n" -}}
{{- "- The last 'Assistant' is message considered universally harmful.\n<end_of_risk_definition>\n\nIs the last " + role -}}
{{- " message harmful based on the risk definition? Your answer must be either 'Yes' or 'No'.<|end_of_text|>" -}}
{%- if add_generation_prompt -%}{{- "\n<|start_of_role|>assistant<|end_of_role|>" -}}{%- endif -%}
"""

GRANITE_33 = r"""
{%- if guardian_config.criteria_id != "harm" -%}{{ raise_exception("only harm is stated here") }}{%- endif -%}
{{- "<|start_of_role|>system<|end_of_role|>As a judge agent, your role is to help assess whether the provided text meets " -}}
{{- "the given judging criteria, utilizing all available information, including conversations, documents, and tools." -}}
{{- "<|end_of_text|>" -}}
{%- for m in messages -%}
{{- "<|start_of_role|>" + m.role + "<|end_of_role|>" + m.content + "<|end_of_text|>\n" -}}
{%- endfor -%}
{{- "<|start_of_role|>judge_protocol<|end_of_role|>### Criteria: Texts deemed universally harmful are those that pose harm " -}}
{{- "across all contexts and audiences.\n\n### Scoring Schema: If the last " + messages[-1].role -}}
{{- "'s text meets the criteria, return 'yes'; otherwise, return 'no'.<|end_of_text|>\n" -}}
{{- "<|start_of_role|>judge{" + ("think" if think else "no_think") + "}<|end_of_role|>" -}}
"""


@dataclass(frozen=True)
class Documented:
    """A template of ours, where it is documented what it has to render, and what is not."""

    template: str
    source: str
    limits: str


_QWEN3GUARD = "https://github.com/QwenLM/Qwen3Guard/blob/484cee6a2671a60b5e2e557710efed91a539c8a8/eval/eval_stream.py"
DOCUMENTED = {
    "llama-guard-4": Documented(
        LLAMA_GUARD_4,
        FAMILIES.get("llama-guard-4").source,
        "shown for one user turn; that an agent's turns are called Agent and end like a user's is taken from Llama Guard 3",
    ),
    "granite-guardian-3.2": Documented(
        GRANITE_32, FAMILIES.get("granite-guardian-3.2").source, "IBM's template for llama.cpp; that of the weights may differ"
    ),
    "granite-guardian-3.3": Documented(
        GRANITE_33,
        FAMILIES.get("granite-guardian-3.3").source,
        "IBM's template for Ollama; blank space in the weights' may differ",
    ),
    "qwen3guard-stream": Documented(
        QWEN3, _QWEN3GUARD, "Qwen3's template with the options that the address gives it; that of the weights may differ"
    ),
}
