"""The tokenizer that every other room sees: a `tokenizers.Tokenizer` with exact bytes, plain errors and a kind."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tokenizers

from gptwo.base.errors import StorageError, TokenizerError
from gptwo.tokenizer import bytelevel
from gptwo.tokenizer.chat import CHAT_TEMPLATE, render_chat
from gptwo.tokenizer.tokenizer_config import eos_token, read_tokenizer_config

EOT = "<|endoftext|>"
Kind = Literal["gpt2", "bpe", "char", "byte", "other"]

_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
# SHA-256 of GPT-2's 50,257 tokens in the order of their ids, one a line: what makes a vocabulary *the* GPT-2 one.
_GPT2_VOCABULARY_SHA256 = "e35a33a0b2250c932ffdafc4c3a3552aef0cc7af7a11e9ebfddf1d2a6517371f"


class Tokenizer:
    """Text to ids and back, through a Hugging Face `tokenizers` backend.

    ``kind``        "gpt2" | "bpe" (GPT-2's pre-tokenization, another vocabulary) | "char" | "byte" | "other"
    ``vocab_size``  the largest id + 1, special tokens included
    ``eot_id``      id of ``<|endoftext|>``, else of the ``eos_token`` that tokenizer_config.json names, else None
    ``backend``     the `tokenizers.Tokenizer`; treat it as read-only, and so
    ``config``      the keys of tokenizer_config.json that it came with

    Special tokens written in the text stay text unless ``allow_special=True``.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any] | None = None) -> None:
        # A saved tokenizer may carry a batch's padding and truncation; here no token is ever added or dropped.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self.backend = backend
        self.config = dict(config or {})
        structure = json.loads(backend.to_str())
        vocabulary = backend.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise TokenizerError("the tokenizer has no tokens; expected a vocabulary in tokenizer.json")
        self._token_of_id: dict[int, str] = {id_: token for token, id_ in vocabulary.items()}
        self._special_ids = frozenset(
            int(added["id"]) for added in structure["added_tokens"] if added["special"]
        )
        self.vocab_size: int = max(self._token_of_id) + 1
        self.eot_id: int | None = vocabulary.get(EOT, vocabulary.get(eos_token(self.config)))
        self._byte_level = (structure["decoder"] or {}).get("type") == "ByteLevel"
        self.kind: Kind = _kind(structure, self._token_of_id)

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size})"

    @property
    def decodes_by_bytes(self) -> bool:
        """True when decoding is joining ``token_bytes`` and reading them as UTF-8: every kind but some "other"."""
        return self._byte_level or self.kind == "char"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of tokenizer.json as ``save`` writes it, in hexadecimal."""
        return hashlib.sha256(self._canonical_json()).hexdigest()

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of ``text``. With ``allow_special``, ``<|endoftext|>`` in it becomes the one token.

        Raises ``TokenizerError`` naming a character that cannot be encoded (a lone surrogate; a character that a
        character vocabulary lacks) and its position.
        """
        ids: list[int]
        if allow_special:
            self._utf8(text)
            if self.kind == "char":
                self._character_ids(self._specials_masked(text))
            # Of a batch: that lets other threads run meanwhile.
            ids = self._special_backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
            return ids
        ids = self.encode_arrays([text])[0].tolist()
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """``encode`` of each text, on all cores."""
        return [ids.tolist() for ids in self.encode_arrays(list(texts))]

    def encode_arrays(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """``encode`` of each text as an int64 array, on all cores; nothing larger than the batch is kept."""
        if self.kind == "byte":
            return [np.frombuffer(self._utf8(text), dtype=np.uint8).astype(np.int64) for text in texts]
        if self.kind == "char":
            return [self._character_ids(text) for text in texts]
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            for text in texts:
                self._utf8(text)
            raise
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD. Special tokens show unless skipped."""
        plain = [int(id_) for id_ in ids]
        for id_ in plain:
            self._require_id(id_)
        text: str = self.backend.decode(plain, skip_special_tokens=skip_special)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of one token (b"" for a hole in the ids). ``TokenizerError`` for an id out of range."""
        self._require_id(token_id)
        token = self._token_of_id.get(token_id)
        if token is None:
            return b""
        if self._byte_level:
            return bytelevel.to_bytes(token)
        if self.kind == "char" or token_id in self._special_ids:
            return token.encode("utf-8")
        # Another family: SentencePiece's byte tokens and its visible space, else the piece as it stands.
        if self.is_byte(token_id):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode("utf-8")

    @property
    def vocabulary(self) -> dict[int, str]:
        """Every token as its file writes it, by id. Where two vocabularies are equal, ids mean the same."""
        return dict(self._token_of_id)

    @cached_property
    def specials(self) -> dict[str, int]:
        """The id of each special token, by its text."""
        return {self._token_of_id[id_]: id_ for id_ in sorted(self._special_ids)}

    def is_special(self, token_id: int) -> bool:
        """True for tokens such as ``<|endoftext|>`` that user text never encodes to."""
        return token_id in self._special_ids

    def is_byte(self, token_id: int) -> bool:
        """True for SentencePiece's tokens of one byte, written ``<0xE2>``; of kind "other" alone."""
        return self.kind == "other" and bool(_BYTE_TOKEN.fullmatch(self._token_of_id.get(token_id, "")))

    def render_chat(self, messages: object, *, add_generation_prompt: bool = True) -> list[int]:
        """The ids of a conversation [{"role", "content"}, ...], ready for an answer: tokenizer/chat.py.

        In the model's own template, else in the plain one of system, user and assistant. Raises ``TokenizerError``.
        """
        return render_chat(self, messages, add_generation_prompt=add_generation_prompt)

    def with_chat_template(self) -> Tokenizer:
        """The same tokenizer, which says in tokenizer_config.json that its model talks in the plain template."""
        return Tokenizer(self.backend, {**self.config, "chat_template": CHAT_TEMPLATE})

    def save(self, folder: Path) -> list[Path]:
        """Write tokenizer.json and tokenizer_config.json into ``folder``; return their paths.

        tokenizer.json         the `tokenizers` serialization, compact, so that ``sha256`` is the file's own
        tokenizer_config.json  tokenizer_class, bos_token, eos_token and clean_up_tokenization_spaces=false, for
                               transformers; keys that a loaded tokenizer came with are kept, ``auto_map`` is not
        """
        config: dict[str, Any] = {"clean_up_tokenization_spaces": False}
        if self.eot_id is not None:
            eot = self._token_of_id[self.eot_id]
            config |= {"bos_token": eot, "eos_token": eot}
        # auto_map points at code to run, and code never travels with a tokenizer here.
        config |= {key: value for key, value in self.config.items() if key != "auto_map"}
        # The generic class loads tokenizer.json as it is; the named ones rebuild parts of it from their own defaults.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        contents = {
            "tokenizer.json": self._canonical_json(),
            "tokenizer_config.json": (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode(
                "utf-8"
            ),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                (folder / name).write_bytes(content)
        except OSError as error:
            raise StorageError(
                f"cannot write the tokenizer into {folder}: {error.strerror or error}"
            ) from error
        return [folder / name for name in contents]

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """A tokenizer from a tokenizer.json file, or a folder with tokenizer.json, vocab.json + merges.txt, or
        encoder.json + vocab.bpe. ``TokenizerError`` when there is none or it cannot be read."""
        from gptwo.tokenizer.build import build_gpt2

        path = Path(path)
        folder = path if path.is_dir() else path.parent
        config = read_tokenizer_config(folder)
        file = folder / "tokenizer.json" if path.is_dir() else path
        if file.is_file():
            try:
                return cls(tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8")), config)
            except TokenizerError:
                raise
            except Exception as error:  # `tokenizers` raises bare Exception for a file it cannot parse
                raise TokenizerError(f"{file} is not a tokenizer.json that can be read: {error}") from error
        for vocab, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
            if path.is_dir() and (folder / vocab).is_file() and (folder / merges).is_file():
                return cls(build_gpt2(folder / vocab, folder / merges).backend, config)
        if not path.exists():
            raise TokenizerError(
                f"there is no tokenizer at {path}; expected a folder or a tokenizer.json file"
            )
        raise TokenizerError(
            f"{path} holds no tokenizer; expected tokenizer.json, vocab.json + merges.txt, or encoder.json + vocab.bpe"
        )

    def _canonical_json(self) -> bytes:
        content: str = self.backend.to_str(pretty=False)
        return content.encode("utf-8")

    @cached_property
    def _special_backend(self) -> tokenizers.Tokenizer:
        # A second backend, not a switched property: one tokenizer may serve many threads at once.
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.encode_special_tokens = False
        return backend

    @cached_property
    def _id_of_code_point(self) -> npt.NDArray[np.int64]:
        points = {ord(token): id_ for id_, token in self._token_of_id.items() if len(token) == 1}
        # One cell beyond the last code point that occurs stays -1: every larger one is clipped to it.
        table = np.full(max(points, default=0) + 2, -1, dtype=np.int64)
        table[list(points)] = list(points.values())
        return table

    def _character_ids(self, text: str) -> npt.NDArray[np.int64]:
        self._utf8(text)
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        table = self._id_of_code_point
        ids: npt.NDArray[np.int64] = table[np.minimum(points, len(table) - 1)]
        if ids.size and ids.min() < 0:
            self._refuse_character(text, int(np.argmin(ids >= 0)))
        return ids

    def _specials_masked(self, text: str) -> str:
        # Same length, so that the position of a character that is not in the vocabulary stays right.
        known = next(token for token in self._token_of_id.values() if len(token) == 1)
        for id_ in self._special_ids:
            special = self._token_of_id[id_]
            text = text.replace(special, known * len(special))
        return text

    @staticmethod
    def _refuse_character(text: str, position: int) -> None:
        character = text[position]
        raise TokenizerError(
            f"character {character!r} (U+{ord(character):04X}) at position {position} is not in this character "
            "vocabulary; remove it, or prepare the data again with this text in it"
        )

    @staticmethod
    def _utf8(text: str) -> bytes:
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"lone surrogate U+{ord(text[error.start]):04X} at position {error.start} is not a character; "
                "expected text that can be written as UTF-8"
            ) from None

    def _require_id(self, id_: int) -> None:
        if not 0 <= id_ < self.vocab_size:
            raise TokenizerError(f"token id {id_} is out of range; expected 0 <= id < {self.vocab_size}")


def _kind(structure: dict[str, Any], token_of_id: dict[int, str]) -> Kind:
    """What a tokenizer is, read off its structure: so that any tokenizer.json, of whatever origin, has a kind."""
    model = structure["model"]
    if model.get("type") != "BPE" or structure["normalizer"] is not None or model.get("byte_fallback"):
        return "other"
    pre, decoder = structure["pre_tokenizer"] or {}, structure["decoder"] or {}
    if decoder.get("type") == "Fuse" and not pre and not model["merges"]:
        return "char" if all(len(token) == 1 for token in model["vocab"]) else "other"
    if decoder.get("type") != "ByteLevel" or pre.get("type") != "ByteLevel" or pre.get("add_prefix_space"):
        return "other"
    if not pre.get("use_regex", True):
        in_order = all(token_of_id.get(b) == c for b, c in bytelevel.CHARACTER_OF_BYTE.items())
        return "byte" if in_order and len(model["vocab"]) == 256 and not model["merges"] else "other"
    if len(token_of_id) == 50257 and len(model["merges"]) == 50000:
        tokens = "\n".join(token_of_id.get(id_, "") for id_ in range(50257))
        if hashlib.sha256(tokens.encode("utf-8")).hexdigest() == _GPT2_VOCABULARY_SHA256:
            return "gpt2"
    return "bpe"
