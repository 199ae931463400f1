"""Evaluation: statistics with intervals, metrics as pure functions, and the results that reports read."""
