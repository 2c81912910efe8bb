"""A Node as JSON and back, from files, masked; and what other programs print, as a Node. Pure (docs/snapshot.md)."""

from via6.observe.snapshot.decode import decode
from via6.observe.snapshot.encode import encode, encode_all
from via6.observe.snapshot.files import load

__all__ = ["decode", "encode", "encode_all", "load"]
