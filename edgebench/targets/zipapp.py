"""The agent as one file that any Python from 3.8 on runs, named by its content."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

from edgebench import agent

__all__ = ["agent_zipapp"]

_MAIN = """import sys
if sys.version_info < (3, 8):
    sys.stderr.write("edgebench's agent needs Python 3.8 or newer, this is %d.%d\\n" % sys.version_info[:2])
    sys.exit(3)
from edgebench.agent.main import main
sys.exit(main(sys.argv[1:]))
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@cache
def agent_zipapp() -> tuple[str, bytes]:
    """The file's name, which holds the sha256 of its content, and the content."""
    package = Path(agent.__file__).parent
    files = {"__main__.py": _MAIN.encode(), "edgebench/__init__.py": b""}
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".c"):
            files[f"edgebench/agent/{path.relative_to(package).as_posix()}"] = path.read_bytes()
    # Without times, so that the same sources give the same bytes.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    return f"{hashlib.sha256(content).hexdigest()[:32]}.pyz", content
