"""Text to token ids and back: the vocabularies trained here, those of others, and the chat renderers.

Public face: ``tokenizer.Tokenizer``, ``bpe.train_bpe``, ``renderer.ChatRenderer``, ``renderer.renderer_for``,
``stream.IncrementalDecoder``, ``gguf_vocabulary`` and ``tiktoken_ranks`` (other formats of vocabularies) and
``segmentation`` (what ``cadran tokenizer show`` prints). Import them from their files, so that importing one of them
loads no other.
"""
