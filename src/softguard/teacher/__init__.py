"""The teacher: LLM + guard as one system, its sampled records, and the cache that keeps them."""

from softguard.teacher.cache import TeacherCache, TeacherSettings
from softguard.teacher.guarded_system import Draft, GuardedSystem
from softguard.teacher.record import TeacherRecord

__all__ = ["Draft", "GuardedSystem", "TeacherCache", "TeacherRecord", "TeacherSettings"]
