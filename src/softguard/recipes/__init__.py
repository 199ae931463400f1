"""Whole jobs, composed of the rooms below: the only place that knows everything."""
