"""Images and the records that data sets and trajectory sets are stored in."""
