"""Where log lines go."""

import logging
import sys
import warnings

from flows.runs.log_capture import logs_to


def test_what_libraries_say_goes_into_the_file(tmp_path, capfd):
    path = tmp_path / "a" / "log"
    logger = logging.getLogger("uvicorn.something")
    handler = logging.StreamHandler()
    logging.getLogger("uvicorn").addHandler(handler)
    try:
        with logs_to(path):
            logger.error("an error of a library")
            warnings.warn("a warning of a library", stacklevel=1)
            print("a print of a library")
            print("100%|####", file=sys.stderr)
        assert handler in logging.getLogger("uvicorn").handlers
    finally:
        logging.getLogger("uvicorn").removeHandler(handler)
    text = path.read_text()
    for words in ("an error of a library", "a warning of a library", "a print of a library", "100%"):
        assert words in text
    assert capfd.readouterr() == ("", "")
