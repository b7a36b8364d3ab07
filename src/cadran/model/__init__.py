"""The Transformer: its sizes, its forward pass, its cache, its files.

Public face: ``config.ModelConfig``, ``transformer.Transformer``, ``cache.KVCache``, ``checkpoint.load_model`` and
``checkpoint.save_model``. Import them from their files, so that reading sizes does not load torch.
"""
