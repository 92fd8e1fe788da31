"""How many examples a test draws: its own number under the profile `ci`, more or less under the others."""

from hypothesis import settings

CI_EXAMPLES = 100


def examples(count: int) -> int:
    """`count` under the profile with 100 examples a test, proportionally more or fewer under the others."""
    return max(1, count * settings().max_examples // CI_EXAMPLES)
