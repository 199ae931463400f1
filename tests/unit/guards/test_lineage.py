"""Lineage: whoever asks a guard is made of it, under whatever name."""

from softguard.guards import lineage, make_guard


def test_what_asks_a_guard_has_it_in_its_lineage():
    keyword = make_guard({"kind": "calibrated", "guard": "keyword", "temperature": 2.0})
    inner = {m.fingerprint for m in keyword.members}
    assert lineage(keyword) == inner | {keyword.fingerprint}
    for settings in (
        {"kind": "cascade", "first": "keyword", "then": "keyword"},
        {"kind": "ensemble", "members": ["keyword", "keyword"]},
    ):
        assert inner < lineage(make_guard(settings))
