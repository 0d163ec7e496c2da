"""Verdicts in, words and pictures out."""
