"""Where a dataset lies: a local folder, or an address that fsspec knows, such as ``s3://bucket/folder``.

Both have the methods of ``pathlib``; a place that is an address is a ``UPath``. Keys and passwords come from where the
store's own library looks for them, such as environment variables, and never from the address: it is shown in messages.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from upath import UPath

    Place: TypeAlias = Path | UPath
else:
    # the library of addresses is imported with the first of them
    Place = Path


# packages of libraries that reach stores, whose errors need not be ``OSError``; none needs to be installed
_OF_STORES = {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs"}


def is_fault_of_store(error: BaseException) -> bool:
    """Whether it is an error of a store's library, such as that the store does not answer or knows no such user."""
    return any(kind.__module__.partition(".")[0] in _OF_STORES for kind in type(error).__mro__)


def first_line(error: BaseException) -> str:
    """The error in a line, since what follows may quote a request; its kind where it says nothing."""
    text = (str(error).strip().splitlines() or [""])[0]
    return (text or type(error).__name__)[:200]


def is_address(place: "str | Place") -> bool:
    """Whether it is an address of a store, and not a local folder."""
    return "://" in str(place)


def as_place(place: "str | Place", argument: str = "folder") -> Place:
    """The local folder, with ``~`` replaced, or the address as a path; nothing is asked of its store.

    Args:
        place: a folder, or ``PROTOCOL://…``.
        argument: the setting that named it, for errors.

    Raises:
        ValueError: a protocol that fsspec does not know, or whose library is missing, a chain of protocols, an
            address that holds a user's name or password, or one without a folder.
    """
    if not is_address(place):
        return Path(str(place)).expanduser()
    address = str(place).rstrip("/")
    protocol, _, rest = address.partition("://")
    # the rest may hold a password, so it is not shown
    if "@" in urlsplit(address).netloc:
        raise ValueError(
            f"{argument} is an address of {protocol!r} with a user's name or password in it, which would be shown in"
            " messages and cards; give them in the environment, as the store's library reads them."
        )
    if "::" in address:
        raise ValueError(f"{argument} is {address!r}, a chain of protocols; give the address of one store.")
    if not rest.strip("/"):
        raise ValueError(f"{argument} is {str(place)!r}, which names no folder; give PROTOCOL://BUCKET/FOLDER.")
    from fsspec import get_filesystem_class
    from upath import UPath

    try:
        get_filesystem_class(protocol)
    except (ValueError, ImportError) as error:
        extra = "; pip install 'ubgen[s3]'" if protocol in ("s3", "s3a") else ""
        raise ValueError(f"{argument} is {address!r}, whose protocol cannot be used ({error}){extra}.") from error
    # a listing that was kept would hide what other workers have written since
    return UPath(address, use_listings_cache=False)


def check_is_local(path: "str | Place | None", argument: str) -> None:
    """Raise ``ValueError`` for an address, where files can be read or written in local folders only.

    Without this an address would be taken for a relative path, and ``s3:`` made a folder here.

    Args:
        path: as the user gave it; None was not given.
        argument: the setting that named it.
    """
    if path is None or not is_address(path):
        return
    protocol, _, rest = str(path).partition("://")
    # a password is not shown
    shown = f"{protocol}://…" if "@" in rest.partition("/")[0] else str(path)
    raise ValueError(
        f"{argument} is {shown!r}, an address, and must be on this machine; give a local path, and copy what is there"
        " to or from the store with the store's own tool."
    )


def opened(file: Place) -> Any:
    """What pyarrow reads a file from: the path of a local one, or an open stream of bytes of one at an address."""
    return file if isinstance(file, Path) else file.open("rb")
