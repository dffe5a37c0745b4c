"""Panics of the tokenizers library, as errors that can be caught.

A panic is a failed assertion in Rust. It prints several lines to stderr, and reaches Python as a BaseException that is
no Exception. A damaged or hostile tokenizer.json may cause one.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


class PanicError(Exception):
    """The library has panicked; the message is the panic's."""


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Turn a panic into a PanicError, and leave out what it prints.

    Raises:
      PanicError: the body has panicked.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        panicked = False
        try:
            yield
        except BaseException as error:
            panicked = type(error).__name__ == "PanicException"  # the library does not export the class
            if panicked:
                raise PanicError(str(error)) from None
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            printed.seek(0)
            if not panicked and (text := printed.read()):
                os.write(2, text)
