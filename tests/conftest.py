"""Shapes in the signatures of objectives are checked while testing: a jaxtyping annotation that does not hold is an error."""

from jaxtyping import install_import_hook

install_import_hook("softguard.objectives", "beartype.beartype")
