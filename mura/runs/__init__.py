"""What a run leaves behind, and how it is read again: no torch here.

Public are `folder.RunFolder` (paths, lock, whether it is finished), `records.read_metrics` and its like (metrics.json
and config.yaml, checked by tables of rules) and `tables.csv_text` with `tables.read_table` (CSV files).
"""
