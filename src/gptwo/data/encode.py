"""The second pass: pieces to ids, each to its split's shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from gptwo.data.index import SPLITS, Ids, Split, SplitInfo, dtype_for
from gptwo.data.shards import ShardWriter
from gptwo.data.split import SplitRule
from gptwo.data.survey import Piece, batches
from gptwo.tokenizer import Tokenizer


def encode_to_shards(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    rule: SplitRule,
    folder: Path,
    *,
    shard_tokens: int,
    on_batch: Callable[[int, int], None],
) -> dict[Split, SplitInfo]:
    """Encode ``pieces`` on all cores and write the shards of both splits into ``folder``.

    ``on_batch(bytes, tokens)`` is called with the running totals: UTF-8 bytes of text, tokens written.
    """
    dtype = np.dtype(dtype_for(tokenizer.vocab_size)).newbyteorder("<")
    documents, text_bytes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    # The parts of the one document that is split by position are its text and nothing more.
    end = np.array([tokenizer.eot_id] if rule.by == "hash" else [], dtype=np.int64)
    current: tuple[Split, int] | None = None
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(ShardWriter(folder, split, dtype, shard_tokens)) for split in SPLITS
        }
        for batch in batches(pieces):
            parts = [
                ((split, piece.number), text)
                for piece in batch
                for split, text in rule.route(piece.number, piece.first_hash, piece.start, piece.text)
            ]
            encoded = tokenizer.encode_arrays([text for _, text in parts])
            gathered: dict[Split, list[Ids]] = {split: [] for split in SPLITS}
            for (document, text), ids in zip(parts, encoded, strict=True):
                if document != current:
                    # That a document has ended shows only when the next begins.
                    if current is not None:
                        gathered[current[0]].append(end)
                    current = document
                    documents[document[0]] += 1
                text_bytes[document[0]] += len(text.encode("utf-8"))
                gathered[document[0]].append(ids)
            for split, arrays in gathered.items():
                if arrays:
                    writers[split].write(np.concatenate(arrays))
            on_batch(sum(text_bytes.values()), sum(writer.tokens for writer in writers.values()))
        if current is not None:
            writers[current[0]].write(end)
        return {
            split: SplitInfo(
                tokens=writer.tokens,
                documents=documents[split],
                bytes=text_bytes[split],
                shards=tuple(writer.finish()),
            )
            for split, writer in writers.items()
        }
