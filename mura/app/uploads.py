"""The pictures that a browser sends: counted while they come, and saved under names of our own."""

import logging
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from mura.data.dicom import HEAD, looks_like_dicom
from mura.errors import MuraError, printable

MEGABYTE = 10**6
MOST_FILES, MOST_BYTES, MOST_BYTES_TOGETHER = 16, 128 * MEGABYTE, 256 * MEGABYTE
LIMITS = (
    f"At most {MOST_FILES} pictures at a time, {MOST_BYTES // MEGABYTE} MB each and "
    f"{MOST_BYTES_TOGETHER // MEGABYTE} MB together."
)
LONGEST_NAME = 120  # characters that are shown of it

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a damaged form is said to who sent it


class RefusedUpload(MuraError):  # noqa: N818
    """A form that is not read, with the status that says so in HTTP."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Upload:
    """A picture as it came. `name` is what its sender calls it, to be shown and nothing else."""

    name: str
    file: UploadFile

    def save(self, folder: Path, number: int) -> Path:
        """Write the picture into a folder, by its number, and return its path.

        Its ending says whether it may be DICOM, since a DICOM file says itself of which study it is.
        """
        self.file.file.seek(0)
        is_dicom = looks_like_dicom(self.file.file.read(HEAD))
        path = folder / f"{number:04d}.{'dcm' if is_dicom else 'png'}"
        self.file.file.seek(0)
        with path.open("xb") as out:
            shutil.copyfileobj(self.file.file, out)
        return path


async def read_form(request: Request) -> FormData:
    """Return the form of a request, whose files the caller closes. Raises RefusedUpload for one that is too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise RefusedUpload(400, "This is no form of this page; choose the pictures there.")
    if int(request.headers.get("content-length") or 0) > MOST_BYTES_TOGETHER:
        raise RefusedUpload(413, f"That is too much. {LIMITS}")
    try:
        return await MultiPartParser(request.headers, _counted(request)).parse()
    except (MultiPartException, FormParserError) as error:
        why = error.message if isinstance(error, MultiPartException) else "it is damaged"
        raise RefusedUpload(400, f"The form can't be read ({why.rstrip('.')}); choose the pictures again.") from None


async def _counted(request: Request) -> AsyncGenerator[bytes, None]:
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > MOST_BYTES_TOGETHER:
            raise RefusedUpload(413, f"That is too much. {LIMITS}")
        yield chunk


def uploads_in(form: FormData) -> list[Upload]:
    """Return the pictures of a form. Raises RefusedUpload when there is none, or too much."""
    files = [each for each in form.getlist("pictures") if isinstance(each, UploadFile) and (each.filename or each.size)]
    if not files:
        raise RefusedUpload(422, "No picture was chosen; choose one or several.")
    if len(files) > MOST_FILES or any((each.size or 0) > MOST_BYTES for each in files):
        raise RefusedUpload(413, f"That is too much. {LIMITS}")
    return [Upload(shown_name(each.filename or ""), each) for each in files]


def shown_name(name: str) -> str:
    """Return a file's name as it is shown: printable, its end if it is long."""
    plain = printable(name) or "a picture without a name"
    return plain if len(plain) <= LONGEST_NAME else f"…{plain[-LONGEST_NAME:]}"
