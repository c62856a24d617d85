"""A hash of a table's files, which changes when the files change."""

import hashlib
import json
import os

from tfmtl.data.sources import Source, files_of, partition_of


def fingerprint(path: str, source: Source) -> str:
    """A hash of a table's files: their names, the values that their folders name, and content.

    Size and time are not enough: some tools change the content and keep both.

    Args:
        path: A file, a folder or a pattern.
        source: Says which files of a folder count.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in files_of(path, source):
        name = json.dumps([os.path.basename(file), partition_of(file)], sort_keys=True)
        digest.update(f"{name} {os.path.getsize(file)}\n".encode())
        with open(file, "rb") as opened:
            while block := opened.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
