"""What distilling known networks takes of memory, from their configurations."""
