"""The files of infra/ filled in for one experiment and one commit."""
