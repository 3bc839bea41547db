"""Measuring artifacts: what is measured, the processes that do it, and the session that keeps what they saw."""
