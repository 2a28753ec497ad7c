"""Makes checksums.parquet: four images of the bundled sample in a file whose pages have checksums (pyarrow 26)."""

from pathlib import Path

import pyarrow.parquet as pq

here = Path(__file__).parent
sample = pq.read_table(here / "../../../../examples/data/test.parquet")
options = {"write_page_checksum": True, "use_dictionary": False, "write_statistics": False, "store_schema": False}
pq.write_table(sample.slice(0, 4), here / "checksums.parquet", compression="snappy", **options)
