"""The ways in which programs write an identifying text: other letters, escapes, encodings; and a date's usual forms.

dates(text, since), identifiers(text) -> texts         encoded(text, wide), in_base64(text) -> bytes, lower case
"""

import base64
import html.entities
import json
import unicodedata
from collections.abc import Iterator
from datetime import date
from itertools import product
from urllib.parse import quote

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_LETTERS = str.maketrans(
    {"\xe4": "ae", "\xf6": "oe", "\xfc": "ue", "\xdf": "ss", "\xf8": "oe", "\xe5": "aa", "\xe6": "ae", "\u0142": "l",
     "\xc4": "Ae", "\xd6": "Oe", "\xdc": "Ue", "\xd8": "Oe", "\xc5": "Aa", "\xc6": "Ae", "\u0141": "L"}
)  # fmt: skip
MIN_PLAIN = 7  # characters of an identifier without its separators
MIN_BASE64 = 8  # characters of it that depend on the text alone; without case, shorter ones occur by chance
_SEPARATORS = str.maketrans("", "", "-_./ ")


def dates(text: str, since: date) -> Iterator[str]:
    """All usual spellings; of a date in the life of the project not the one that its own time stamps have."""
    digits = text.replace(".", "")[:8]
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return
    if day <= date(1900, 1, 1):  # a dummy
        return
    year, month, number, name = f"{day:%Y}", f"{day:%m}", f"{day:%d}", _MONTHS[day.month - 1]
    yield f"{year}{month}{number}"
    for sign in (".", "/", "-", " "):
        if day < since or sign == ".":
            yield f"{year}{sign}{month}{sign}{number}"
        for d, m in {(number, month), (str(day.day), str(day.month))}:
            # Two digits of a year after one of a month are a program's version: 2.4.26.
            years = (year, year[2:]) if sign == "/" or len(d) == len(m) == 2 else (year,)
            for shown in years:
                yield sign.join((d, m, shown))
                yield sign.join((m, d, shown))
    for d, called in product({number, str(day.day)}, (name, name[:3])):
        for sign in (" ", "-", ". ", ".", "/"):
            yield f"{d}{sign}{called}{' ' if sign == '. ' else sign}{year}"
        yield f"{called} {d}, {year}"
        yield f"{called} {d} {year}"


def identifiers(text: str) -> Iterator[str]:
    """As it is, without its separators, and with others."""
    yield text
    plain = text.translate(_SEPARATORS)
    if plain != text and len(plain) >= MIN_PLAIN:
        yield plain
        yield from (text.translate(str.maketrans("-_./ ", 5 * sign)) for sign in "-_./ ")


def letters(text: str) -> set[str]:
    """`text` composed, and if it is not ASCII in the letters that other systems put for its own."""
    composed = unicodedata.normalize("NFC", text)
    if composed.isascii():
        return {composed}
    bare = "".join(sign for sign in unicodedata.normalize("NFKD", composed) if not unicodedata.combining(sign))
    return {composed, composed.translate(_LETTERS), bare}


def encoded(text: str, wide: bool) -> set[bytes]:
    """`wide`: also as UTF-16 and UTF-32 (NumPy's text)."""
    forms = _cases(text)
    found = {form.encode("utf-8", "surrogateescape") for form in forms}
    if not text.isascii():
        found |= {spelled for form in forms for spelled in _escaped(form)}
    if wide:
        found |= {form.encode(code, "surrogatepass") for form in forms for code in ("utf-16-le", "utf-32-le")}
    return {spelled.lower() for spelled in found}


def in_base64(text: str) -> set[bytes]:
    """What base64 of any longer text that holds `text` holds for sure; nothing of a short one."""
    plain = [form.encode("utf-8", "surrogateescape") for form in _cases(text)]
    return {piece.lower() for form in plain for shift in range(3) for piece in _base64(form, shift)}


def _cases(text: str) -> set[str]:
    return {text, text.lower(), text.upper(), text.title()}


def _escaped(form: str) -> Iterator[bytes]:
    """Other bytes for letters beyond ASCII: Latin-1, decomposed (macOS), JSON, HTML, URLs."""
    for shape in (form, unicodedata.normalize("NFD", form)):
        plain = shape.encode("utf-8", "surrogateescape")
        yield plain
        yield json.dumps(shape)[1:-1].encode()
        yield shape.encode("ascii", "xmlcharrefreplace")
        yield "".join(sign if sign.isascii() else f"&#x{ord(sign):x};" for sign in shape).encode()
        yield quote(plain, safe=" ^,").encode()
    yield "".join(_named(sign) for sign in form).encode()
    latin = form.encode("latin-1", "ignore")
    if len(latin) > 4:
        yield latin
        yield quote(latin, safe=" ^,").encode()


def _named(sign: str) -> str:
    if sign.isascii():
        return sign
    name = html.entities.codepoint2name.get(ord(sign))
    return f"&{name};" if name else f"&#{ord(sign)};"


def _base64(plain: bytes, shift: int) -> Iterator[bytes]:
    """The characters in which `plain` appears when `shift` bytes of a group of three lie before it."""
    whole = base64.b64encode(b"\0" * shift + plain)
    begin = -(-shift * 8 // 6)
    piece = whole[begin : (shift + len(plain)) * 8 // 6]
    if len(piece) >= MIN_BASE64:
        yield piece
        yield piece.replace(b"+", b"-").replace(b"/", b"_")
