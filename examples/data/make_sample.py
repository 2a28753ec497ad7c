"""Cuts the bundled sample out of the CIFAR-10 Parquet files: python make_sample.py FOLDER

FOLDER holds train.parquet and test.parquet with `img` (JPEG bytes, path) and `label`. The first images of each class
are kept, in the order of the file.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

PER_CLASS = {"train": 200, "test": 50}


def first_of_each_class(labels, count):
    rows = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(rows))


def main(source):
    for part, count in PER_CLASS.items():
        table = pq.read_table(source / f"{part}.parquet")
        rows = first_of_each_class(table["label"].to_numpy(), count)
        target = Path(__file__).with_name(f"{part}.parquet")
        pq.write_table(table.take(rows), target, compression="zstd", compression_level=19)
        print(f"{target.name}: {len(rows)} images, {target.stat().st_size} bytes")


main(Path(sys.argv[1]))
