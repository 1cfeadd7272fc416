"""The nine stages of dvc.yaml, one file each: what goes in, what comes out. What they do lies in the rooms beside."""

STAGES = ("inventory", "deidentify", "ingest", "plan", "preprocess", "pretrain", "train", "evaluate", "register")
CODE = "code"  # before them all: which code is behind each, see pipelines/work/code.py
