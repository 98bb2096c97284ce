"""A text teacher that two cores can train: emoji on coloured backgrounds, with captions whose truth is measured from
pixels. Data, teacher, judge, and the report of what its students reach."""
