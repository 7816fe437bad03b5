"""Training of the miniature Stable Diffusion's U-Net and text encoder, together, on cached latents.

The objective is Ho et al.'s (2020) simple loss, ||eps - eps_theta(x_t, c)||^2 with t uniform and eps normal, on the
linear noise schedule of DDPM; captions are dropped one time in ten, so that the model is also unconditional.
The weights that are kept are an exponential moving average.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffclf.mini.checkpoint import load_checkpoint, log_loss, save_checkpoint, trim_log
from diffclf.mini.world import COLOURS, ITEMS, LAYOUTS, OPPOSITE, Scenes, caption_pair, caption_single

__all__ = ["Denoiser", "build_denoiser", "build_scheduler", "draw_captions", "train_denoiser"]

CAPTION_DROPOUT = 0.1
EMA_DECAY = 0.9995
EMA_EARLY_DECAY, EMA_WARM_UP = 0.99, 1000


class Denoiser(torch.nn.Module):
    """The two networks that learn together.

    Attributes:
        unet: predicts the noise in 8x8x4 latents.
        text_encoder: turns 16 tokens into 16 vectors of width 64.
    """

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, token_ids: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Predict the noise; caption i of the batch is row which[i] of token_ids: equal captions are encoded once."""
        embedding = self.text_encoder(token_ids).last_hidden_state[which]
        return self.unet(x_t, t, embedding).sample


def build_denoiser(tokenizer: CLIPTokenizer) -> Denoiser:
    """Return the untrained networks: 1.6 million parameters of U-Net, 0.15 million of text encoder."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Denoiser(unet.to(memory_format=torch.channels_last), CLIPTextModel(config))


def build_scheduler() -> DDPMScheduler:
    """Return the linear schedule of DDPM and DiT: beta from 1e-4 to 0.02 in 1000 steps, epsilon prediction."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False, steps_offset=1)


def draw_captions(scenes: Scenes, rng: np.random.Generator) -> list[str]:
    """Describe each scene in one of its ways at random, or (one time in ten) with the empty caption.

    A single is named with its colour or without; a pair is told from the first object or from the second.
    """
    colours = list(COLOURS)
    dropped = rng.random(len(scenes)) < CAPTION_DROPOUT
    coin = rng.random(len(scenes)) < 0.5
    captions = []
    for i, code in enumerate(scenes.layout):
        objects = [(colours[c], ITEMS[k]) for c, k in zip(scenes.colour[i], scenes.item[i], strict=True)]
        if dropped[i]:
            captions.append("")
        elif code < 0:
            colour, item = objects[0]
            captions.append(caption_single(item, colour if coin[i] else None))
        elif coin[i]:
            captions.append(caption_pair(objects[0], LAYOUTS[code], objects[1]))
        else:
            captions.append(caption_pair(objects[1], OPPOSITE[LAYOUTS[code]], objects[0]))
    return captions


@dataclass(frozen=True)
class _Batches:
    """Draws training batches; batch `step` is the same whenever it is drawn."""

    latents: torch.Tensor
    scenes: Scenes
    tokenizer: CLIPTokenizer
    alphas_cumprod: torch.Tensor
    batch_size: int
    seed: int

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, 2, step])
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        index = rng.integers(len(self.scenes), size=self.batch_size)
        x0 = self.latents[torch.from_numpy(index)].float()
        captions, which = np.unique(draw_captions(self.scenes[index], rng), return_inverse=True)
        ids = self.tokenizer(captions.tolist(), padding="max_length", truncation=True, return_tensors="pt").input_ids
        # Evenly spaced t with one random offset: uniform like independent draws, with less variance in the loss.
        n_timesteps = len(self.alphas_cumprod)
        t = torch.from_numpy(
            ((np.arange(self.batch_size) + rng.random()) * n_timesteps / self.batch_size).astype(np.int64)
        )
        eps = torch.randn(x0.shape, generator=generator)
        alpha_bar_t = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        x_t = alpha_bar_t.sqrt() * x0 + (1 - alpha_bar_t).sqrt() * eps
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        return {"x_t": x_t, "t": t, "token_ids": ids, "which": torch.from_numpy(which), "eps": eps}


def train_denoiser(
    latents: torch.Tensor,
    scenes: Scenes,
    tokenizer: CLIPTokenizer,
    folder: Path,
    *,
    n_samples: int,
    batch_size: int = 128,
    learning_rate: float = 1.2e-3,
    seed: int = 0,
    save_every: int = 500,
    start_from: Denoiser | None = None,
    milestones: dict[int, Callable[[Denoiser], None]] | None = None,
) -> Denoiser:
    """Train the U-Net and the text encoder; resume from `folder` if it holds a checkpoint.

    Args:
        latents: (n, 4, 8, 8) scaled latents of the scenes, any float type.
        scenes: the n scenes.
        tokenizer: of the captions.
        folder: where the checkpoint and the loss log go.
        n_samples: latents seen in all.
        batch_size: latents per step.
        learning_rate: peak of a linear decay to zero, after a short warm-up.
        seed: seed of weights, batches and noise.
        save_every: steps between checkpoints.
        start_from: trained networks to continue from, instead of random weights.
        milestones: called with the averaged networks when so many samples have been seen.

    Returns:
        The averaged networks.
    """
    torch.manual_seed(seed)
    denoiser = start_from or build_denoiser(tokenizer)
    ema = AveragedModel(denoiser)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=learning_rate, weight_decay=1e-3, betas=(0.9, 0.99))
    draw = _Batches(latents, scenes, tokenizer, build_scheduler().alphas_cumprod, batch_size, seed)
    n_steps = n_samples // batch_size
    start, seconds = load_checkpoint(folder / "denoiser.pt", denoiser=denoiser, ema=ema, optimizer=optimizer)
    trim_log(folder / "denoiser.csv", start)
    bar = tqdm(range(start, n_steps), initial=start, total=n_steps, desc="U-Net and text encoder", mininterval=5)
    began, running = time.monotonic() - seconds, []
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 500, (n_steps - step) / n_steps * 1.05)
        ema.multi_avg_fn = get_ema_multi_avg_fn(EMA_DECAY if step >= EMA_WARM_UP else EMA_EARLY_DECAY)
        running.append(_train_step(denoiser, ema, optimizer, draw(step)))
        done, elapsed = (step + 1) * batch_size, time.monotonic() - began
        if (step + 1) % 100 == 0:
            mean_loss = torch.stack(running).mean().item()
            running.clear()
            log_loss(folder / "denoiser.csv", step + 1, done, mean_loss, elapsed)
            bar.set_postfix(loss=f"{mean_loss:.4f}")
        if (step + 1) % save_every == 0 or step + 1 == n_steps:
            save_checkpoint(folder / "denoiser.pt", step + 1, elapsed, denoiser=denoiser, ema=ema, optimizer=optimizer)
        for milestone, act in (milestones or {}).items():
            if done - batch_size < milestone <= done:
                act(ema.module)
    return ema.module.eval()


def _train_step(
    denoiser: Denoiser, ema: AveragedModel, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Take one step on one batch and return its loss, without waiting for it."""
    eps = batch.pop("eps")
    loss = (denoiser(**batch) - eps).square().mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
    optimizer.step()
    ema.update_parameters(denoiser)
    return loss.detach()
