"""Files to checked rows: delimited text, Parquet, folders and frames.

In go paths or tables and a `ProblemSpec`; out come Arrow tables with the declared columns, put into
training, validation and test rows, and a report of what was found. Encodings do not belong here;
they are fitted and applied in `features`.
"""
