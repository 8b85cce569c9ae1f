"""Measuring a model: what it answers, whether that is safe and useful, and how sure we are."""
