"""Text in, checksummed token shards out: whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from gptwo.base.errors import DataError, GptwoError, TokenizerError
from gptwo.data.encode import encode_to_shards
from gptwo.data.index import INDEX_NAME, DataIndex, Split, SplitInfo, TokenizerInfo, dtype_for, is_prepared
from gptwo.data.shards import SHARD_TOKENS
from gptwo.data.sources import STDIN, Sources, spool
from gptwo.data.split import SplitRule, decide_split
from gptwo.data.staging import StagedFolder, storage_error
from gptwo.data.survey import Sample, Survey, batches, numbered_pieces
from gptwo.tokenizer import Tokenizer, resolve_tokenizer

_SPOOL_NAME = "standard-input"


@dataclass(frozen=True, kw_only=True)
class PrepareProgress:
    """Where `prepare` is: reading all of the text once, making the tokenizer, writing tokens.

    ``bytes_done`` of ``bytes_total`` UTF-8 bytes in this stage; the total is known from the second stage on.
    """

    stage: Literal["reading", "tokenizer", "writing"]
    bytes_done: int
    bytes_total: int | None
    documents: int
    tokens: int = 0


Report = Callable[[PrepareProgress], None]


def prepare(
    sources: Sequence[str],
    *,
    tokenizer: str,
    out: Path,
    vocab_size: int | None = None,
    val_fraction: float = 0.1,
    text_field: str = "text",
    force: bool = False,
    progress: Report | None = None,
    stdin: BinaryIO | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> DataIndex:
    """Turn texts into token shards at ``out`` (see `DataIndex` for the layout) and return their index.

    sources       files, folders or "-" (``stdin``), see `Sources`
    tokenizer     gpt2 | bpe | char | byte | a path; a bpe learns from a sample of the training text, at most 24 MiB
    vocab_size    tokens of a bpe (4,096 if None)
    val_fraction  of documents by hash, or of the one document's characters by position, see `SplitRule`; 0 = none
    force         replace an ``out`` that is itself prepared data
    shard_tokens  largest number of tokens in one shard

    ``<|endoftext|>`` follows each document, except when one document is split by position: there, its parts are its
    text and nothing more. The text is read twice and never held whole. Raises ``DataError``, ``TokenizerError``,
    ``MissingExtraError``, ``StorageError``; after any of them, or a kill, ``out`` is as it was.
    """
    if not 0.0 <= val_fraction < 1.0:
        raise DataError(f"val_fraction={val_fraction} is not possible; expected 0 <= val_fraction < 1")
    if shard_tokens < 1:
        raise DataError(f"shard_tokens={shard_tokens} is not possible; expected at least 1")
    report = progress or (lambda _: None)
    try:
        with StagedFolder(out, replaceable=lambda folder: force and is_prepared(folder)) as staged:
            texts = Sources(sources, text_field, _spooled(sources, stdin, staged.path), exclude=staged.out)
            survey, sample = _survey(texts, tokenizer, report)
            rule = decide_split(
                documents=survey.documents,
                characters=survey.characters,
                val_fraction=val_fraction,
                lowest=survey.lowest,
                highest=survey.highest,
            )
            report(_progress("tokenizer", survey))
            chosen, trained_on_bytes = _tokenizer(tokenizer, vocab_size, survey, sample, rule)
            del sample
            chosen.save(staged.path)
            splits = _write(
                texts, chosen, rule, survey, staged.path, shard_tokens=shard_tokens, report=report
            )
            index = DataIndex(
                tokenizer=TokenizerInfo(
                    kind=chosen.kind,
                    vocab_size=chosen.vocab_size,
                    eot_id=chosen.eot_id,
                    sha256=chosen.sha256,
                    trained_on_bytes=trained_on_bytes,
                ),
                dtype=dtype_for(chosen.vocab_size),
                split_by=rule.by,
                val_fraction=val_fraction,
                splits=splits,
                skipped={
                    "binary": texts.skipped.binary,
                    "hidden": texts.skipped.hidden,
                    "empty": survey.empty_documents,
                },
                folder=out,
            )
            if texts.stdin is not None:
                texts.stdin.unlink()
            (staged.path / INDEX_NAME).write_text(index.to_json(), encoding="utf-8")
            staged.publish()
    except GptwoError:
        raise
    except OSError as error:
        raise storage_error(out, error) from error
    return index


def _spooled(sources: Sequence[str], stdin: BinaryIO | None, folder: Path) -> Path | None:
    if STDIN not in sources or stdin is None:
        return None
    file = folder / _SPOOL_NAME
    spool(stdin, file)
    return file


def _survey(texts: Sources, tokenizer: str, report: Report) -> tuple[Survey, Sample]:
    survey, sample = Survey(), Sample()
    for batch in batches(numbered_pieces(texts, on_empty=survey.count_empty)):
        for piece in batch:
            survey.count(piece)
            if tokenizer == "bpe":
                sample.add(piece)
            elif tokenizer == "char":
                survey.alphabet.update(piece.text)
        report(
            PrepareProgress(
                stage="reading", bytes_done=survey.bytes, bytes_total=None, documents=survey.documents
            )
        )
    if not survey.documents:
        raise DataError(
            f"{', '.join(texts.paths)}: no text in it ({survey.empty_documents} empty documents, "
            f"{texts.skipped.binary} binary and {texts.skipped.hidden} hidden files skipped); expected some text"
        )
    return survey, sample


def _tokenizer(
    spec: str, vocab_size: int | None, survey: Survey, sample: Sample, rule: SplitRule
) -> tuple[Tokenizer, int | None]:
    if spec == "bpe":
        learned_from = sample.training_texts(rule)
        size = sum(len(text.encode("utf-8")) for text in learned_from)
        return resolve_tokenizer(spec, lambda: iter(learned_from), vocab_size), size
    # Of all the text, not of the train split alone: a character seen in validation only must have an id.
    tokenizer = resolve_tokenizer(spec, lambda: iter(survey.alphabet), vocab_size)
    if tokenizer.eot_id is None and rule.by == "hash":
        raise TokenizerError(f"{spec} has no <|endoftext|> to put between {survey.documents} documents")
    return tokenizer, None


def _write(
    texts: Sources,
    tokenizer: Tokenizer,
    rule: SplitRule,
    survey: Survey,
    folder: Path,
    *,
    shard_tokens: int,
    report: Report,
) -> dict[Split, SplitInfo]:
    splits = encode_to_shards(
        numbered_pieces(texts),
        tokenizer,
        rule,
        folder,
        shard_tokens=shard_tokens,
        on_batch=lambda done, tokens: report(_progress("writing", survey, done, tokens)),
    )
    written = sum(split.bytes for split in splits.values())
    if written != survey.bytes:
        raise DataError(
            f"the text changed while it was read ({survey.bytes} bytes, then {written}); start again when it is still"
        )
    return splits


def _progress(
    stage: Literal["tokenizer", "writing"], survey: Survey, done: int = 0, tokens: int = 0
) -> PrepareProgress:
    return PrepareProgress(
        stage=stage, bytes_done=done, bytes_total=survey.bytes, documents=survey.documents, tokens=tokens
    )
