"""What a user brings in: image folders and the files of feature extractors."""
