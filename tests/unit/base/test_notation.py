"""docs/notation.md says what the code says: the letters, and both names of every parameter."""

from __future__ import annotations

import re
from pathlib import Path

from gptwo.base.axes import AXES
from gptwo.checkpoint.names import parameter_table
from gptwo.config import GPT2Config

NOTATION = Path(__file__).parents[3] / "docs" / "notation.md"
# Sizes of which each product is a different number, so that a shape is read back without ambiguity.
CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=10, n_inner=7, context=11, vocab_size=13)
SIZES = {"D": 10, "3D": 30, "F": 7, "C": 11, "V": 13}


def table(header: str) -> list[list[str]]:
    """The cells of the table whose first row is ``header``."""
    lines = NOTATION.read_text(encoding="utf-8").split(header + "\n", maxsplit=1)[1].splitlines()
    rows = []
    for line in lines[1:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_letters_and_meanings_are_those_of_axes() -> None:
    assert table("| Letter | Meaning |") == [[letter, meaning] for letter, meaning in AXES.items()]


def test_parameter_names_are_those_of_the_checkpoint_table() -> None:
    documented = []
    for ours, shape, released, _ in table("| Ours | Shape | Released | In the paper |"):
        names = re.findall(r"`([^`]+)`", ours + released)
        documented.append((*names, tuple(SIZES[size] for size in shape.split("×")), ours.endswith("ᵀ")))
    # Of the blocks, the first stands for all.
    rows = [row for row in parameter_table(CONFIG) if not row.ours.startswith("blocks.1.")]
    assert documented == [
        (
            row.ours.replace("blocks.0.", "blocks.i."),
            row.released.replace(".h.0.", ".h.i."),
            row.shape,
            row.transposed,
        )
        for row in rows
    ]
