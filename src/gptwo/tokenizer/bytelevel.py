"""GPT-2's table of printable characters that stand for bytes (`bytes_to_unicode` in openai/gpt-2, src/encoder.py)."""

from __future__ import annotations

# Bytes that print as themselves in Latin-1 keep their character; the 68 others take U+0100, U+0101, ... in order.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]

CHARACTER_OF_BYTE: dict[int, str] = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + rank) for rank, byte in enumerate(_OTHERS)
}
BYTE_OF_CHARACTER: dict[str, int] = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


def to_bytes(token: str) -> bytes:
    """The bytes that a token's printable form stands for.

    A token with a character outside the table (an added token with a space, say) stands for its own UTF-8, as in
    the byte-level decoder of Hugging Face `tokenizers`.
    """
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:
        return token.encode("utf-8")
