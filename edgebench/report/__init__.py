"""Bundles and runs for people: each module renders one kind of report from the types and the figures."""
