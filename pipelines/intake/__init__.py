"""From a folder of anything to rows of the manifest: what lies there, what it is, whether it can be used."""
