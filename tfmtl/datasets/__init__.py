"""Public data sets from their raw files: Ali-CCP, AliExpress, UserBehavior-2017 and IJCAI-15.

Input: a folder with the files as they were downloaded. Output: typed columns, as of any other
table, so that `read_table` and the pipeline's ExampleGen read them by `Source(reader=…)`; the
problem, the splits and the settings of the papers, by name. Plain tables (CSV, Parquet) belong to
`data`; simulated files in these formats are written by `simulator`.
"""

from tfmtl.datasets.ali_ccp import AliCCP
from tfmtl.datasets.aliexpress import AliExpress
from tfmtl.datasets.ijcai15 import IJCAI15
from tfmtl.datasets.user_behavior import UserBehavior

__all__ = ["IJCAI15", "AliCCP", "AliExpress", "UserBehavior"]
