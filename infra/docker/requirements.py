"""The requirements of pyproject.toml and of the extras named as arguments, one a line: `pip install --requirement`."""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print("\n".join([*project["dependencies"], *(item for name in sys.argv[1:]
                                             for item in project["optional-dependencies"][name])]))
