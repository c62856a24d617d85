"""From files to checked rows: readers, splits and the checks that come before training."""
