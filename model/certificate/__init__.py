"""The launch certificate: what a run on many GPUs will need and take, found out without one of them.

    hardware.py   GPUs, links and systems: public specifications, as data
    record.py     watches every operation of a step: allocations, FLOPs, bytes, messages
    gpu.py        makes a CPU's fake tensors go the way that a GPU's would
    simulate.py   the real network, loss, sharding and training step on fake tensors and fake ranks
    memory.py     from a record to bytes by category over time
    timing.py     from a record to seconds, messages and model FLOP utilisation
    estimate.py   a deep network from the record of a shallow one, for the search and the scaling study
    search.py     every way to run it, those that fit in order, and why
    report.py     its content: figures, sentences, remedies; pipelines/pages/launch_certificate.py writes it
    document.py   what it is bound to, when it is valid

Nothing here changes a training run; the train stage imports `document` alone.
"""
