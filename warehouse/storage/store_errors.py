"""What goes wrong in an object store, as one line each: OSError in place of what obstore raises, whose texts are a page long.

In: an error of obstore. Out: FileNotFoundError where there is no such object, and for all else a `StoreError` with the status of the
answer and S3's own word for it, or why there was no answer. Nothing of credentials is in it.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

from warehouse.errors import StoreError, StoreRefusedError, first_line


@contextlib.contextmanager
def os_errors(bucket: str, address: str) -> Iterator[None]:
    """Raise OSError in place of what obstore raises.

    Args:
        bucket: The address of the bucket.
        address: That of the object or folder.

    Yields:
        Nothing.

    Raises:
        FileNotFoundError: There is no such object.
    """
    try:
        yield
    except Exception as e:
        if isinstance(e, FileNotFoundError):  # obstore raises Python's own
            if "NoSuchBucket" not in str(e):
                raise FileNotFoundError(errno.ENOENT, "there is no such object", address) from None
        elif not type(e).__module__.startswith("obstore"):
            raise
        error = _store_error(e, bucket, address)
        raise error from None


def _store_error(error: Exception, bucket: str, address: str) -> StoreError:
    """Return what an error of obstore means, which only its text says."""
    text, kind = str(error), type(error).__name__
    status, word = re.search(r"status code: ((\d+)[\w ]*)", text), re.search(r"<Code>(\w{1,60})</Code>", text)
    said, number = f" ({word[1]})" if word else "", status[2] if status else None
    match word and word[1]:
        case "NoSuchBucket":
            return StoreError(errno.ENODEV, f"there is no bucket {bucket}", address)
        case "ExpiredToken":
            return StoreRefusedError(errno.EACCES, f"the credentials have expired{said}", address)
    if asked := re.search(r"External AWS credential provider: (.{1,300})", text):
        return StoreRefusedError(errno.EACCES, f"the credentials cannot be renewed: {asked[1]}", address)
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or number in ("401", "403"):
        return StoreRefusedError(errno.EACCES, f"the credentials that there are do not allow it{said}", address)
    if status:
        expired = ", as it does to credentials that have expired" if number == "400" and not word else ""
        return StoreError(errno.EIO, f"the store answers {status[1].strip()}{said}{expired}", address)
    if asked := re.search(r"https?://[^/\s,]+", text):
        why = re.search(r'(?:message|error): "([^"]{1,200})"', text)
        reason = "it took too long" if "TimedOut" in text else why[1] if why else "the connection broke"
        return StoreError(errno.EIO, f"no answer from {asked[0]}: {reason}", address)
    return StoreError(errno.EIO, first_line(error)[:300], address)
