"""DICOM in, volumes out: reading, pseudonyms, the confidentiality profile, geometry, labels.

The stage pipelines/deidentify.py runs it.
"""
