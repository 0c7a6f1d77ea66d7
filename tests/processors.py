"""Processors that one machine can stand for, by switches of the libraries themselves.

The switches are environment variables, read when a library is loaded: each run is a process of its
own. They limit the instructions that a library may choose; a machine without AVX-512 runs
``native`` as ``avx2``.
"""

PROCESSORS = {
    "native": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "baseline": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NUMBA_CPU_NAME": "generic",
    },
}
