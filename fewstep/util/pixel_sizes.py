"""Sizes in pixels: (height, width) in the code, WIDTHxHEIGHT where people write and read them. Torch-free."""

from __future__ import annotations

PATTERN = r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}"
"""Regular expression of WIDTHxHEIGHT."""


def size_text(size: tuple[int, int]) -> str:
    """WIDTHxHEIGHT of (height, width)."""
    height, width = size
    return f"{width}x{height}"


def size_of_text(text: str) -> tuple[int, int]:
    """(height, width) of WIDTHxHEIGHT."""
    width, _, height = text.partition("x")
    return int(height), int(width)
