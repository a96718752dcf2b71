"""The encoding of a text file: UTF-8 and UTF-16 are recognised by their bytes, cp1252 by the letters that it gives.

Any bytes are some text in a single-byte code page. Text is taken for cp1252 where its letters beyond ASCII are those of
one language that is written in it; everything else is left for a person to say.
"""

import codecs
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError

_BLOCK = 1 << 20
_MIN_UTF16_NULS = 0.05  # of all bytes at the start of a file, whose header is ASCII for the most part
_PUNCTUATION = "‘’‚“”„…–—•·°§€£©®™²½«»‹›\xa0"  # noqa: RUF001 - as they are written
_ALPHABETS = {
    "French": "àâæçéèêëîïôœùûü",
    "German": "äöüßéà",
    "Spanish": "áéíñóúü¿¡ªº",
    "Portuguese": "áâãàçéêíóôõúüªº",
    "Italian": "àáèéìíîòóùú",
    "Catalan": "àçèéíïòóúü·",
    "Dutch": "áàäçéèëêïíóöôúü",
    "Danish and Norwegian": "æøåéèêóòôü",
    "Swedish and Finnish": "åäöéšžüà",
    "Icelandic": "áðéíóúýþæö",
}
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def detect_encoding(open_binary: Callable[[], AbstractContextManager[BinaryIO]], name: str) -> str:
    """Return the encoding of a text file, as a codec's name.

    Parameters
    ----------
    open_binary
        Opens the file at its start.
    name
        Of the file, for messages.

    Raises
    ------
    UserError
        When it is none of UTF-8, UTF-16 and, beyond doubt, cp1252.
    """
    with open_binary() as file:
        start = file.read(4096)
    for bom, encoding in _BOMS:
        if start.startswith(bom):
            return encoding
    # ASCII in UTF-16 has a NUL in every other byte: in the second one where the low byte comes first.
    even, odd = start[::2].count(0), start[1::2].count(0)
    if min(even, odd) == 0 and max(even, odd) > len(start) * _MIN_UTF16_NULS:
        utf16 = "utf-16-le" if odd else "utf-16-be"
        if _decodes(open_binary, utf16):
            return utf16
    if _decodes(open_binary, "utf-8"):
        return "utf-8"
    if even or odd:
        raise UserError(
            Reason.INVALID_DATA, f"{name} holds NUL bytes and is neither UTF-8 nor UTF-16: it is not a text file"
        )
    return _detect_single_byte(open_binary, name)


def check_codec(codec: str) -> str:
    """Return the codec of this name; raise UserError when there is none for text."""
    try:
        if codecs.lookup(codec)._is_text_encoding:
            return "utf-8-sig" if codecs.lookup(codec).name == "utf-8" else codec
    except LookupError:
        pass
    raise UserError(
        Reason.INVALID_DATA,
        f"dataset.format.encoding '{codec}' is no text encoding: name one such as 'utf-8' or 'cp1250'",
    )


def _decodes(open_binary: Callable[[], AbstractContextManager[BinaryIO]], encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_binary() as file:
        try:
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _detect_single_byte(open_binary: Callable[[], AbstractContextManager[BinaryIO]], name: str) -> str:
    with open_binary() as file:
        found = sorted({byte for block in iter(lambda: file.read(_BLOCK), b"") for byte in _list_high_bytes(block)})
    shown = bytes(found)
    try:
        letters = set(shown.decode("cp1252").lower()) - set(_PUNCTUATION)
    except UnicodeDecodeError:
        letters = None
    if letters is not None and any(letters <= set(alphabet) for alphabet in _ALPHABETS.values()):
        return "cp1252"
    raise UserError(
        Reason.INVALID_DATA,
        f"{name} is not UTF-8, and its encoding cannot be told from its bytes (the characters beyond ASCII are"
        f" {_preview(shown, 'cp1252')} in cp1252, {_preview(shown, 'cp1250')} in cp1250, {_preview(shown, 'cp1251')} in"
        " cp1251): name it in dataset.format.encoding, or save the file as UTF-8",
    )


def _list_high_bytes(block: bytes) -> bytes:
    return bytes(set(re.sub(rb"[\x00-\x7f]+", b"", block)))


def _preview(data: bytes, encoding: str) -> str:
    return "".join(data.decode(encoding, "replace").split())[:20]
