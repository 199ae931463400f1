"""The cache of teacher records that a config means: its settings, and who draws the drafts."""

from collections.abc import Sequence
from typing import Any

from softguard.data import PromptRow
from softguard.objectives import OBJECTIVES
from softguard.recipes.config import Config
from softguard.sources import cache_dir
from softguard.teacher import GuardedSystem, ServerDrafts, TeacherCache, TeacherSettings, load_draft_server


def teacher_cache(config: Config, teacher: GuardedSystem, *, ask_again: bool = True, max_ungraded: float = 0.01) -> TeacherCache:
    """Return the cache of a teacher's records as a config wants them.

    Raises:
        ConfigError: `teacher.server` is no server.
    """
    return TeacherCache(
        cache_dir() / "teacher",
        teacher,
        TeacherSettings(config.teacher.max_new_tokens, config.teacher.temperature, config.teacher.seed),
        max_ungraded=max_ungraded,
        refusal_log_probs="preference" in OBJECTIVES.get(config.objective.kind)(config.objective).needs,
        ask_again=ask_again,
        drafts=draft_server(config),
    )


def draft_server(config: Config) -> ServerDrafts | None:
    """Return the server that draws the drafts, None where the model here does.

    Raises:
        ConfigError: it is none.
    """
    return ServerDrafts(load_draft_server(config.teacher.server)) if config.teacher.server else None


def described_server(config: Config) -> dict[str, Any]:
    """Return what the provenance of a run says of such a server, nothing where there is none."""
    server = draft_server(config)
    return {} if server is None else {"draft_server": dict(server.described)}


def split_by_source(rows: Sequence[PromptRow]) -> list[list[PromptRow]]:
    """Return the rows source by source: each has shards of its own, so that runs that share a source share its drafts."""
    return [[r for r in rows if r.source == source] for source in sorted({r.source for r in rows})]
