"""Small changes to the losses, made in process, are noticed by the verification engine.

`scripts/mutants.py` makes them; `python scripts/mutants.py --all` tries every one.
"""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts" / "mutants.py"
EXAMPLES = 3


def loaded_script():
    spec = importlib.util.spec_from_file_location("mutants_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mutants = loaded_script()
# module, kind of change, its line, which of the like changes on that line
PINNED = [
    ("alignment", "operator", "if columns and value.numel() == like.numel():", 0),
    (
        "alignment",
        "operator",
        'reads_path = "batch" + "".join(f"[{key!r}]" for key in (*prefix, "reads"))',
        0,
    ),
    ("composite", "drop sign", "if not math.isfinite(number):", 0),
    ("composite", "constant", "if isinstance(value, Tensor) and value.dim() == 0:", 0),
    ("kernels/concordance", "operator", "slopes *= weights", 0),
    ("kernels/concordance", "constant", "others_slope[block] = slopes.sum(1)", 0),
    (
        "kernels/negative_binomial_regions",
        "drop where",
        "return torch.where(square <= 0.0625, near, z - torch.log(one_plus_z))",
        0,
    ),
    ("likelihood", "constant", "others, others_finite = _elements(*replicates[1], validate=validate)", 0),
    ("masked", "drop sign", "if not isinstance(mask, Tensor):", 0),
    ("masked", "function", "squares = torch.where(mask, (a - b).square(), 0.0)", 0),
    (
        "negative_binomial",
        "function",
        "cdf, _ = cdf_and_sf(x.to(torch.float64), mu.expand(x.shape), r.expand(x.shape))",
        0,
    ),
    ("pearson", "comparison", "x_constant, y_constant = sum_ee == 0.0, sum_ff == 0.0", 0),
    ("pearson", "function", "return x, x.detach()[0].to(work)", 0),
    (
        "quantile",
        "function",
        "distance = torch.where(cdf_1 + cdf_2 <= 1.0, cdf_1 - cdf_2, sf_2 - sf_1).abs()",
        0,
    ),
    (
        "quantile",
        "swap branches",
        "distance = torch.where(cdf_1 + cdf_2 <= 1.0, cdf_1 - cdf_2, sf_2 - sf_1).abs()",
        0,
    ),
    ("residual", "constant", "grad_1.to(y1.dtype) if wanted[0] else None,", 0),
    ("saturate", "drop where", "scale = torch.where(huge, _GUARD, 1.0).to(elements.dtype)", 0),
    ("scaling", "function", "return x.abs().amax() if x.numel() else x.new_zeros(())", 0),
]


def pinned(module, kind, line, which):
    """The mutation of that description."""
    like = [m for m in mutants.candidates(module) if m.kind == kind and mutants.line_of(m) == line]
    assert len(like) > which, f"torchimpl/{module}.py has no longer the line {line!r}: pin another mutant"
    return like[which]


@pytest.mark.filterwarnings("ignore")  # what a mutant warns of is its own affair
@pytest.mark.parametrize("description", PINNED, ids=lambda d: f"{d[0]}-{d[1]}")
def test_a_mutant_is_rejected(description):
    mutation = pinned(*description)
    assert not mutants.survives("mutant", mutation.module, mutation, EXAMPLES), description


def test_every_mutation_changes_the_source_in_one_place():
    for module in ("masked", "saturate"):
        source = (mutants.PACKAGE / f"{module}.py").read_text()
        tree = ast.parse(source)
        before = ast.dump(tree)
        changed = [ast.dump(mutants.mutate(tree, one)) for one in mutants.candidates(module)]
        assert before not in changed
        assert ast.dump(tree) == before
        assert len(changed) > 10


@pytest.mark.filterwarnings("ignore")
def test_the_unchanged_package_is_accepted_when_loaded_in_the_same_way():
    assert mutants.survives("unchanged", "masked", None, EXAMPLES)


def test_loading_changes_the_loss_and_leaves_nothing_behind():
    mutation = next(
        m for m in mutants.candidates("masked") if m.kind == "operator" and "total =" in mutants.line_of(m)
    )
    finders, modules = list(sys.meta_path), set(sys.modules)
    x, mask = torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool)
    with mutants.loaded("changed", mutation) as changed:
        import torchimpl

        assert changed.masked_sse(x, 0 * x, mask) != torchimpl.masked_sse(x, 0 * x, mask)
        assert changed.__name__ == "changed"
    assert sys.meta_path == finders
    assert not [name for name in set(sys.modules) - modules if name.split(".")[0] == "changed"]
    assert "mutant" not in {name.split(".")[0] for name in sys.modules}


def test_what_is_listed_as_equivalent_has_a_reason():
    for (module, kind, line), why in mutants.EQUIVALENT.items():
        assert module in mutants.LOSSES, module
        assert kind in mutants.KINDS, kind
        assert line == line.strip()
        assert len(why.split()) > 2, line
