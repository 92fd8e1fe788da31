"""Long vectors in pieces: every element once, in order, and in one piece where pieces gain nothing."""

import pytest
import torch

from torchimpl.kernels.blocks import BLOCK, blocks, joined, total


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 3])
def test_pieces_hold_every_element_once(size):
    x, scale = torch.arange(size, dtype=torch.float64), torch.tensor(0.5)
    pieces = blocks(x, 2 * x, scale)
    assert len(pieces) == -(-size // BLOCK)
    assert all(piece[2] is scale and torch.equal(piece[1], 2 * piece[0]) for piece in pieces)
    assert torch.equal(joined([piece[0] for piece in pieces]), x)
    assert total([piece[0].sum() for piece in pieces]) == x.sum()


def test_what_fits_one_block_is_left_as_it_is():
    for size in (0, 3, BLOCK):
        x = torch.zeros(size)
        ((piece,),) = blocks(x)
        assert piece is x
        assert joined([x]) is x


def test_one_piece_on_other_devices():
    x = torch.zeros(2 * BLOCK, device="meta")
    ((piece,),) = blocks(x)
    assert piece is x
    assert len(blocks(torch.zeros(2 * BLOCK))) == 2


def test_one_piece_where_a_compiler_sees_it(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x = torch.zeros(2 * BLOCK)
    ((piece,),) = blocks(x)
    assert piece is x
