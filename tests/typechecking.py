"""The checker of annotations that the import hook puts around every function of vaekit."""

from beartype import BeartypeConf, beartype

# A whole number is a float to Python's own annotations, and to ours.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
