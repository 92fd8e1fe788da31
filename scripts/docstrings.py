"""How the documentation site reads docstrings (a griffe extension, named in mkdocs.yml).

Sources are written for people at a prompt. Two things must change before Markdown sees them: the section
``Example:`` is called ``Examples:`` there, and ``a["x"]["y"]`` in running text is a subscript, not a link.
"""

import re

import griffe

SECTION = re.compile(r"^Example:$", re.MULTILINE)
# text between backticks is left alone, and so is everything from the examples on
SUBSCRIPT = re.compile(r"(`+[^`]*`+)|\]\[")


def for_markdown(docstring: str) -> str:
    r"""The docstring as Markdown should see it.

    Example:
        >>> for_markdown('Gradient g["mu"][0], see `a[0][1]`.')
        'Gradient g["mu"]\\[0], see `a[0][1]`.'
    """
    text, marker, examples = SECTION.sub("Examples:", docstring).partition("Examples:\n")
    return SUBSCRIPT.sub(lambda found: found[1] or r"]\[", text) + marker + examples


class Docstrings(griffe.Extension):
    """Rewrite every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = for_markdown(obj.docstring.value)
