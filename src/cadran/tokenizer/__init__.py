"""Text to token ids and back: byte-level BPE, and the one chat renderer.

Public face: ``tokenizer.Tokenizer``, ``bpe.train_bpe``, ``renderer.ChatRenderer``, ``stream.IncrementalDecoder`` and
``segmentation`` (what ``cadran tokenizer show`` prints). Import them from their files, so that importing one of them
loads no other.
"""
