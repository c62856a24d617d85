"""The command line of `python -m tfmtl.serving.catalogue`."""

import argparse
import sys
from collections.abc import Sequence

import pyarrow as pa

from tfmtl.serving.ad_vectors import BATCH_ROWS, write_ad_vectors
from tfmtl.text import LINE_BREAK, printable

HELP = """\
Computes the vectors of a catalogue's ads with the ad tower of an exported model. A request then
computes the user's vector only: `rank` takes both vectors and is as fast as a few small layers.

Vectors are valid for the model that made them. Compute them again for a new model, and for an ad
whose columns changed.
"""

EXAMPLE = """\
ADS is CSV, TSV or Parquet, or a folder of such files, with the ad's id and the columns that the
model's `ad_tower` takes. The output has the id and `vector`, in the order of ADS.

example:
  python -m tfmtl.serving.catalogue serving/ads/1 ads.parquet --out vectors.parquet

and in the server, once:
  import pyarrow.parquet as pq, tensorflow as tf
  signatures = tf.saved_model.load("serving/ads/1").signatures
  catalogue = pq.read_table("vectors.parquet").to_pandas().set_index("ad_id")["vector"]

then for a request, of one user and n retrieved ads:
  user = signatures["user_tower"](user_id=tf.constant(["u7"]), age=tf.constant([31.0]))["vector"]
  found = signatures["rank"](
      user=user,                                            # [1, width]
      ads=tf.constant(catalogue[ad_ids].to_list()),         # [n, width], float32
      bid=tf.constant(bids),                                # [n], float32, value per action
      objective=tf.constant(objectives),                    # [n], text, as in TotalValue(actions=)
      rate=tf.constant(conversion_rates),                   # [n], float32; NaN where not needed
  )
  found["total_value"], found["ctr"]                        # [n] each
Without a TotalValue, `rank` takes user= and ads= only, and returns the predictions.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        count = write_ad_vectors(
            options.model,
            options.ads,
            options.out,
            id_column=options.id,
            batch_rows=options.batch,
            progress=True,
        )
    except (ValueError, OSError, pa.ArrowException) as error:
        print(f"error: {printable(error, keep=LINE_BREAK)}", file=sys.stderr)
        return 1
    print(f"{count:,} vectors written to {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfmtl.serving.catalogue",
        description=HELP,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of the exported model")
    add("ads", metavar="ADS", help="the catalogue, one row per ad")
    add("--out", metavar="FILE", required=True, help="Parquet file to write; must not exist")
    add("--id", metavar="COLUMN", default="ad_id", help="the ad's id (%(default)s)")
    add(
        "--batch",
        metavar="N",
        type=_positive,
        default=BATCH_ROWS,
        help="ads a batch (%(default)s)",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; at least 1 makes sense")
    return value


if __name__ == "__main__":
    sys.exit(main())
