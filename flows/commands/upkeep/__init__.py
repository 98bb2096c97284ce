"""Commands that check and clean."""
