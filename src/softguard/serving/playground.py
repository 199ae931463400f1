"""The page at `/`: one question, each system's answer beside the others, as they are made.

One file with its style and script inside. Its content security policy lets that one script run (by its hash) and talk to this
server alone, so that not even an answer that was taken for HTML could load anything.
"""

import base64
import hashlib
import json
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from softguard.serving.served import Served

COLUMNS = {
    "base": ("Base model", "The model as it is, with no guard."),
    "guarded": ("Guarded system", "The base model's draft, shown once the guard has read all of it; else the refusal."),
    "student": ("Student", "The base model with the learned soft prompt alone. No guard runs."),
}
"""The systems that the page compares, where they are served."""


def playground(served: Served, *, needs_key: bool, longest: int) -> tuple[str, str]:
    """Return the page and its content security policy.

    Args:
        served: what there is to compare.
        needs_key: ask for the API key.
        longest: tokens of the longest answer that may be asked for.
    """
    folder = files("softguard.serving") / "page"
    script = (folder / "playground.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("softguard.serving", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    settings = {"judge": served.guard is not None, "columns": [name for name in COLUMNS if name in served.systems]}
    page = environment.get_template("playground.html.j2").render(
        columns={name: COLUMNS[name] for name in COLUMNS if name in served.systems},
        guard=served.guard.name if served.guard else None,
        needs_key=needs_key,
        longest=longest,
        usual=min(128, longest),
        settings=json.dumps(settings),
        style=Markup((folder / "playground.css").read_text(encoding="utf-8")),
        script=Markup(script),
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy
