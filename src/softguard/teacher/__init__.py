"""The teacher: LLM + guard as one system, its sampled records, and the cache that keeps them."""

from softguard.teacher.cache import TeacherCache, TeacherSettings
from softguard.teacher.guarded_system import GuardedSystem
from softguard.teacher.record import TeacherRecord

__all__ = ["GuardedSystem", "TeacherCache", "TeacherRecord", "TeacherSettings"]
