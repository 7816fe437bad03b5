"""A tiny randomly initialised BLIP for captions, saved as it lies on the hub."""

from pathlib import Path

import torch
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "photo", "of", "cat", "dog", "red"]


def save_tiny_blip(path):
    """Save a BLIP for 32 x 32 images and return its directory."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "vocab.txt").write_text("\n".join(WORDS))
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    text |= {"bos_token_id": 5, "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0, "projection_dim": 16}
    vision = {"image_size": 32, "patch_size": 8, "projection_dim": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BlipConfig(text_config=text | layers, vision_config=vision | layers, projection_dim=16)
        BlipForConditionalGeneration(config).save_pretrained(path)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    return path
