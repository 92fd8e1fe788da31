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
# two mutants of every module, without those that scripts/mutants.py lists as equivalent or as known gaps
SAMPLE = [
    mutation
    for mutation in mutants.sampled(sorted(mutants.LOSSES), 2, seed=3)
    if not mutants.reason(mutation) and not mutants.known_gap(mutation)
]


@pytest.mark.filterwarnings("ignore")  # what a mutant warns of is its own affair
@pytest.mark.parametrize("mutation", SAMPLE, ids=lambda m: f"{m.module}-{m.index}-{m.kind}")
def test_a_mutant_is_rejected(mutation):
    line = mutants.line_of(mutation)
    assert not mutants.survives("mutant", mutation.module, mutation, EXAMPLES), f"{mutation.kind}: {line}"


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
