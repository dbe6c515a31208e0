"""Decodes compressed DICOM frames in a process of its own, because a damaged frame can abort its process.

The decoders are C, C++ and Rust libraries; GDCM, for one, ends the process at some damaged JPEG-LS streams. The child
is started at the first compressed file, serves one request after the other, and is started again after it died. Run as
a script, this module is the child; it then needs nothing of radvqa.
"""

import atexit
import json
import os
import struct
import subprocess
import sys
import threading
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt

LONGEST_DECODE = 120
"""Seconds after which a frame counts as one that cannot be decoded."""
PIXEL_TAGS: tuple[str, ...] = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
_REQUEST = struct.Struct("<QI")
# Those that do best with damaged streams; what neither reads, any that can.
_PREFERRED = {
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.51": "pillow",
    "1.2.840.10008.1.2.5": "pylibjpeg",
}
_PREFERRED |= {f"1.2.840.10008.1.2.4.{number}": "pylibjpeg" for number in (90, 91, 201, 202, 203)}


class DecodeError(ValueError):
    """The frame cannot be decoded."""


def decoded_frame(content: bytes, index: int) -> npt.NDArray[Any]:
    """Frame ``index`` of a compressed DICOM file's bytes: ``(rows, columns)`` or ``(rows, columns, 3)`` in RGB.

    Raises:
        DecodeError: it is damaged, took too long, or ended the child.
    """
    with _Child.lock:
        child = _Child.running()
        watch = threading.Timer(LONGEST_DECODE, child.kill)
        watch.daemon = True
        watch.start()
        answer: npt.NDArray[Any] | str | None = None
        try:
            answer = _asked(child, content, index)
        except (OSError, ValueError, EOFError):
            pass
        finally:
            watch.cancel()
            if answer is None:  # also after Ctrl-C, when an answer may still be under way
                _Child.stop()
    if answer is None or isinstance(answer, str):
        raise DecodeError(answer or "the decoder ended")
    return answer


class _Child:
    """The one child of this process."""

    lock = threading.Lock()
    process: subprocess.Popen[bytes] | None = None
    inherited: ClassVar[list[Any]] = []

    @classmethod
    def running(cls) -> "subprocess.Popen[bytes]":
        if cls.process is not None and cls.process.poll() is not None:
            cls.stop()
        if cls.process is None:
            command = [sys.executable, "-P", str(Path(__file__).resolve())]  # -P: this folder shadows no module
            cls.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return cls.process

    @classmethod
    def stop(cls) -> None:
        process, cls.process = cls.process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass
        process.wait()

    @classmethod
    def forked(cls) -> None:
        """In a copy of this process: the child answers to the original, and is kept so that nothing closes it."""
        cls.lock = threading.Lock()
        cls.inherited.append(cls.process)
        cls.process = None


def _asked(child: "subprocess.Popen[bytes]", content: bytes, index: int) -> npt.NDArray[Any] | str:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(_REQUEST.pack(len(content), index))
    child.stdin.write(content)
    child.stdin.flush()
    answer = json.loads(child.stdout.readline())
    if "error" in answer:
        return str(answer["error"])
    kind, shape = np.dtype(answer["dtype"]), tuple(answer["shape"])
    length = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    data = child.stdout.read(length)
    if len(data) != length:
        raise EOFError
    return np.frombuffer(data, dtype=kind).reshape(shape)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    while len(head := requests.read(_REQUEST.size)) == _REQUEST.size:
        length, index = _REQUEST.unpack(head)
        content = requests.read(length)
        try:
            values = _decoded(content, index)
        except BaseException as error:  # noqa: BLE001 - a panic of the Rust decoder is no Exception
            answers.write(json.dumps({"error": type(error).__name__}).encode("ascii") + b"\n")
        else:
            head = json.dumps({"dtype": values.dtype.str, "shape": values.shape}).encode("ascii")
            answers.write(head + b"\n" + np.ascontiguousarray(values).tobytes())
        answers.flush()


def _decoded(content: bytes, index: int) -> npt.NDArray[Any]:
    import pydicom
    from pydicom.datadict import tag_for_keyword
    from pydicom.pixels import pixel_array

    tags = [tag for keyword in PIXEL_TAGS if (tag := tag_for_keyword(keyword)) is not None]
    whole = pydicom.dcmread(BytesIO(content), force=True, specific_tags=tags)
    values: npt.NDArray[Any] = pixel_array(
        whole, index=index, decoding_plugin=_PREFERRED.get(str(whole.file_meta.TransferSyntaxUID), "")
    )
    return values


atexit.register(_Child.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Child.forked)

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    own = os.dup(1)
    os.dup2(2, 1)  # whatever a decoder prints must not get between the answers
    with os.fdopen(own, "wb") as stdout:
        _serve(sys.stdin.buffer, stdout)
