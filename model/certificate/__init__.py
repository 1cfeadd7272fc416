"""The launch certificate: what a run on many GPUs will need and take, found out without one of them.

    launch_plan.py   a run as the certificate sees it
    record.py        watches every operation of a step: allocations, FLOPs, bytes, messages
    gpu.py           makes a CPU's fake tensors go the way that a GPU's would
    simulate.py      the real network, loss, sharding and training step on fake tensors and fake ranks
    memory.py        from a record to bytes by category over time
    operations.py    what a record is made of
    fusion.py        which operations a compiler makes one kernel of
    occupancy.py     how much of a GPU a product keeps busy
    timing.py        from a record to seconds, messages and model FLOP utilisation
    estimate.py      a deep network's step from the record of a shallow one
    mixture.py       the mean of several sources
    timed_pieces.py  what a calibration times: probes, and the parts of a planned network
    calibrate.py     times them on the GPU at hand, and finds its rates
    calibration.py   what was measured, and whether a certificate may count with it
    host.py          memory of the machines around the GPUs
    ways.py          every way to run it, those that fit in order, and why
    report.py        its content: figures, sentences, remedies; pipelines/pages/launch_certificate.py writes it
    document.py      what it is bound to, when it is valid

GPUs and links are data in model/engine/hardware.py. Nothing here changes a training run; the train stage imports
`document` alone.

What is watched is private to PyTorch in places (FSDPParamGroup's methods, UntypedStorage.resize_, the task id of the
autograd engine, the `fake` process group), so all of it holds for the exact version that pyproject.toml pins.
"""
