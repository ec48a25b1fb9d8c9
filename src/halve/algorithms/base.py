"""What an algorithm is given, and what it gives back."""

from halve.schemes.statistics import Statistics

__all__ = ["Statistics"]
