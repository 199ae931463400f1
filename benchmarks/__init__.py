"""Measurements that anyone can run again; what they wrote is committed beside them."""
