"""Text in, checksummed token shards out, and which tokens a training step sees. No torch."""

from gptwo.data.index import (
    DataIndex,
    ShardInfo,
    Split,
    SplitInfo,
    TokenizerInfo,
    load_index,
)
from gptwo.data.order import TokenOrder, batch
from gptwo.data.prepare import PrepareProgress, prepare
from gptwo.data.reader import TokenData, split_text
from gptwo.data.sources import Document, Sources

__all__ = [
    "DataIndex",
    "Document",
    "PrepareProgress",
    "ShardInfo",
    "Sources",
    "Split",
    "SplitInfo",
    "TokenData",
    "TokenOrder",
    "TokenizerInfo",
    "batch",
    "load_index",
    "prepare",
    "split_text",
]
