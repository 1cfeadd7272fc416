"""DICOM in, volumes out: reading, pseudonyms, the confidentiality profile, geometry, labels.

The stage pipelines/stages/deidentify.py runs it.
"""
