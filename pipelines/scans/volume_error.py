"""What is raised of a file that cannot be used."""


class VolumeError(ValueError):
    """A file that cannot be used as a volume; the message is the reason, fit for the manifest."""
