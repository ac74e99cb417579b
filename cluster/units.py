"""Units of memory and disk. Standard library only, since the set-up reads it before anything is installed."""

MIB = 2**20
GIB = 2**30
