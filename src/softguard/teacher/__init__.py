"""The teacher: LLM + guard as one system, its sampled records, and the cache that keeps them."""

from softguard.teacher.cache import TeacherCache, TeacherSettings
from softguard.teacher.guarded_system import Draft, GuardedSystem, Weighed
from softguard.teacher.policy import Policy, load_policy
from softguard.teacher.record import Outcome, TeacherRecord
from softguard.teacher.server_drafts import DraftServerConfig, ServerDrafts, load_draft_server

__all__ = [
    "Draft",
    "DraftServerConfig",
    "GuardedSystem",
    "Outcome",
    "Policy",
    "ServerDrafts",
    "TeacherCache",
    "TeacherRecord",
    "TeacherSettings",
    "Weighed",
    "load_draft_server",
    "load_policy",
]
