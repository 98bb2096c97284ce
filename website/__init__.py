"""How the pages of docs/ become a site: `make docs`. What is generated, drawn and checked on the way."""
