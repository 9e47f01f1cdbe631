"""The file that a run's classes come from, read once, whatever it turns out to hold. No torch.

It may be a class list, captions, templates, or DiffuGen's configuration. The reader of each takes the text from here.
"""

import codecs
from dataclasses import dataclass
from pathlib import Path

from .built_in_classes import built_in_name


@dataclass(frozen=True)
class ClassFile:
    """A file as the setting ``classes`` names it.

    Attributes:
        source: what the setting says; errors name it.
        path: where it lies.
        text: all that it holds.
    """

    source: str
    path: Path
    text: str

    @property
    def suffix(self) -> str:
        """The end of its name in lower case, such as ``.json``."""
        return self.path.suffix.lower()


def read_class_file(source: "str | Path | ClassFile") -> ClassFile | None:
    """Read the file; None for the name of a built-in list, and for what is no file. One read already is given back.

    Raises:
        ValueError: it could not be read.
    """
    if isinstance(source, ClassFile):
        return source
    path = Path(source).expanduser()
    if (isinstance(source, str) and built_in_name(source) is not None) or not path.is_file():
        return None
    try:
        data = path.read_bytes()
        text = data.decode(_encoding(data)).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"classes is {str(source)!r}, which could not be read as text in UTF-8: {error}; save it as UTF-8, in an"
            " editor or, of Windows-1252, with `iconv -f CP1252 -t UTF-8` (GBK, SHIFT_JIS … of others)."
        ) from error
    except OSError as error:
        raise ValueError(f"classes is {str(source)!r}, which could not be read: {error}") from error
    if 3 * text.count("\0") > len(text):
        # every second byte of UTF-16 without its mark
        raise ValueError(f"classes is {str(source)!r}, which is no text in UTF-8; save it as UTF-8.")
    return ClassFile(str(source), path, text)


def _encoding(data: bytes) -> str:
    """What spreadsheets and Windows editors say in the first bytes."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
