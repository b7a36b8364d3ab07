"""The GGUF container: one memory-mapped file that holds metadata, a vocabulary and quantised weights.

Public face: ``reader.GgufFile``, ``reader.GgufTensor``, ``quantization.dequantise``, ``quantization.quantise`` and
``writer.write_gguf``; ``translate.GgufModel`` and ``translate.export_gguf`` between GGUF and Hugging Face.
Import them from their files; none of them loads torch until weights are asked for.
"""
