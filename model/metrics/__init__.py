"""What a segmentation is worth, as arithmetic on two masks: overlap, distances of surfaces, lesions found.

No torch, no files and no rules about cases or cohorts: what a missed structure costs is decided above.
`docs/metrics.md` states every definition, its unit and its source.
"""
