"""Finished runs in, verdicts out. The room reads run folders and knows nothing of how they were made.

Public: `summary.summarise_study` (folders to a `Study`), `collect.collect` (folders to runs), `verdict.compare`
(predictions tables to comparisons), and the records that they return.
"""
