"""The doors for DICOM: receiving processes that own sockets, TLS, protocol and segments of the journal.

services/   what a modality may ask by DIMSE: one service a file
dicomweb/   the same by HTTP (PS3.18), in a receiving process of its own
"""
