"""DVC: its repository, the only module that imports it, and its files as plain data."""
