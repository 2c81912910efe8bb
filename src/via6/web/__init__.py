"""`via6 web`: the network in a browser. Imported by that verb alone, for it needs libraries that no other verb does."""
