"""Edge: the store-and-forward DICOM gateway of one clinic."""

__version__ = "0.2.0"
