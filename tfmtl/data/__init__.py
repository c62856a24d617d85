"""Files to checked rows: delimited text, Parquet, folders and frames.

Input: paths or tables, and a `ProblemSpec`. Output: Arrow tables with the declared columns, split
into training, validation and test rows, and a report of counts, warnings and errors.
Encodings do not belong here; they are fitted and applied in `features`.
"""
