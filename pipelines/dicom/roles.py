"""The roles that a series may get, and the code strings and words by which one is known: data for sequence.py.

Words are regular expressions over a description in lower case, with spaces for underscores; the first match wins.
"""

# Every role that a series may get: names of model.network.config.MODALITIES. MR: the sequence is not stated.
CT, PET, US, MR, T1, T1CE, T2, FLAIR, CINE, PD, DWI, ADC, SWI, LGE, DCE = ROLES = (
    "CT", "PET", "US", "MR", "T1", "T1CE", "T2", "FLAIR", "CINE", "PD", "DWI", "ADC", "SWI", "LGE", "DCE",
)  # fmt: skip

IN_WORDS = (  # first match wins
    (ADC, r"\badc\b|apparent diffusion"),
    (DWI, r"\bdwi\b|\bdti\b|\bdiff(usion)?\b|\btrace\b"),
    (SWI, r"\bswi\b|\bswan\b|suscept"),
    (LGE, r"\blge\b|late (gad|enh)|delayed enh|\bpsir\b"),
    (CINE, r"\bcine\b|\btrufi\b|\bfiesta\b|\bssfp\b"),
    (DCE, r"\bdce\b|dynamic|\bdyn\b"),
    (FLAIR, r"flair|tirm.*dark|dark.?fluid"),
    (PD, r"\bpd\b|proton"),
    (T2, r"\bt2"),
    (T1, r"\bt1|mprage|\bspgr\b|\bbravo\b|\btfl\b|\bvibe\b"),
)
OF_NO_SEQUENCE = (  # what, by code strings or words: images that no role means, though their times look like one
    ("a map of tissue properties", {"T1 MAP", "T2 MAP", "T1_MAP", "T2_MAP", "T1MAP", "T2MAP", "T2_STAR_MAP", "R2 MAP",
      "R2_STAR", "FF"},
     r"\bt[12] ?(\*|star)? ?map|\bmapping\b|molli\b|\becv\b|\br2 ?(\*|star)|fat ?fraction|\bpdff\b|elasto|\bt1 ?rho"),
    ("a map of the diffusion tensor", {"FA", "RA", "TENSOR", "TRACE_MAP", "EADC"},
     r"\bfa\b|fractional|\btensor\b|\bcolfa\b|\beadc\b|exp(onential)? ?(adc|app)"),
    ("an angiography or flow image", {"TOF", "ANGIO", "FLOW_ENCODED", "PCA", "M_PCA"},
     r"\btof\b|time.of.flight|angio|\bmra\b|\bmrv\b|\btricks\b|\btwist\b|\btrance\b|inhance|\bflow\b(?!.?comp)|venc"),
    ("a perfusion image", {"PERFUSION", "ASL"}, r"\b(3d)?p?c?asl\b|arterial spin|perfusion|\bperf\b|\bdsc\b|\bpwi\b"),
    ("a functional image", {"FMRI"}, r"\b(rs)?fmri\b|\bbold\b"),
    ("a tagged image", {"TAGGING"}, r"\btagg"),
    ("the fat of a Dixon sequence", {"FAT", "F", "FAT_ONLY"},
     r"\bfat (only|image)|\bfat:|(dixon|flex|ideal).*(\bfat\b(?! ?-?(sat|sup))|\bf$)"),
    ("a subtraction", {"SUBTRACTION", "SUB"}, r"subtract|\bsubs?\b(?!.?\d)"),
    ("a T2*-weighted image", {"T2_STAR"}, r"\bt2 ?(\*|star)|\bhemo\b"),
)  # fmt: skip
MORE_EXACT = {"a perfusion image": DCE, "a T2*-weighted image": SWI}  # what a word of the same description says better
BY_CONTRAST = {"T1": T1, "T2": T2, "PROTON_DENSITY": PD, "FLUID_ATTENUATED": FLAIR, "DIFFUSION": DWI}
