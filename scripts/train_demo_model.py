"""Train the class-conditional diffusion transformer that `thermoq demo` quantizes.

A 2.1 M parameter `DiTTransformer2DModel` on the 8x8 digits that ship with scikit-learn, saved in
bf16 in diffusers layout. Then 1000 images are sampled from the saved files, and the share that a
classifier fitted on the real digits recognises is printed and written to the model's README.
Nothing is downloaded. The bytes depend on torch's version and the CPU.

Needs `pip install thermoq[torch]`, which brings scikit-learn; takes some minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

PACKAGED_MODEL = Path(__file__).parents[1] / "python" / "thermoq" / "models" / "digits-dit"
NUM_CLASSES = 10
NULL_LABEL = NUM_CLASSES  # the label of "no label", for classifier-free guidance
LABEL_DROPOUT = 0.1
BATCH_SIZE = 128
PEAK_LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
EMA_DECAY = 0.997
SAMPLING_STEPS = 50
NUM_SAMPLES = 1000
REQUIRED_ACCURACY = 0.90

README = """# The model of `thermoq demo`

A class-conditional diffusion transformer (`DiTTransformer2DModel`, {parameters:.1f} M distinct
parameters, bf16) that draws 8x8 digits: one channel, values in [-1, 1], labels 0 to 9, label 10
for "no label" (classifier-free guidance), noise prediction, 1000 timesteps. No pipeline of
diffusers fits it (`DiTPipeline` wants an autoencoder): load transformer and scheduler one by one.

Data: the digits that ship with scikit-learn, a copy of the test set of *Optical Recognition of
Handwritten Digits* (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits), licence
CC BY 4.0. The model saw 80 % of them.

Made by `python scripts/train_demo_model.py --seed {seed} --steps {steps}`, which printed:

    {result}
"""


class Digits(NamedTuple):
    """Images [n, 1, 8, 8] in [-1, 1] and their labels [n]."""

    images: Tensor
    labels: Tensor


def load_data() -> tuple[Digits, Digits]:
    """Return the digits to fit on, and the 20 % that neither model nor classifier sees."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
    fitted, held_out = train_test_split(
        range(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    targets = torch.tensor(labels)
    return Digits(images[fitted], targets[fitted]), Digits(images[held_out], targets[held_out])


def new_transformer() -> DiTTransformer2DModel:
    """Return an untrained transformer in which every block has its own embedder."""
    return DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=1,
        out_channels=1,
        num_layers=6,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=NUM_CLASSES,
    )


def initial_transformer() -> DiTTransformer2DModel:
    """Return DiT's initial state: one embedder shared by all blocks, each block the identity.

    The label table keeps diffusers' N(0, 1): with DiT's deviation of 0.02 labels take hold late.
    """
    model = new_transformer()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
    embedder = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks:
        block.norm1.emb = embedder
        torch.nn.init.zeros_(block.norm1.linear.weight)
    for projection in (model.proj_out_1, model.proj_out_2):
        torch.nn.init.zeros_(projection.weight)
    # diffusers drops labels in training mode, in each block on its own; `train` drops them itself.
    return model.eval()


def noise_prediction_error(
    model: torch.nn.Module, scheduler: DDIMScheduler, images: Tensor, labels: Tensor
) -> Tensor:
    """Return the mean squared error of the predicted noise at random timesteps."""
    noise = torch.randn_like(images)
    timesteps = torch.randint(scheduler.config.num_train_timesteps, labels.shape)
    noisy = scheduler.add_noise(images, noise, timesteps)
    predicted = model(noisy, timestep=timesteps, class_labels=labels).sample
    return functional.mse_loss(predicted, noise)


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then half a cosine to 0."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / steps)) / 2


def train(
    data: Digits, held_out: Digits, scheduler: DDIMScheduler, steps: int
) -> DiTTransformer2DModel:
    """Return the moving average of a transformer's weights over `steps` optimizer steps."""
    model = initial_transformer()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: learning_rate_factor(s, steps))
    started = time.perf_counter()
    for step in range(1, steps + 1):
        chosen = torch.randint(len(data.labels), (BATCH_SIZE,))
        dropped = torch.rand(BATCH_SIZE) < LABEL_DROPOUT
        labels = data.labels[chosen].masked_fill(dropped, NULL_LABEL)
        loss = noise_prediction_error(model, scheduler, data.images[chosen], labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        average.update_parameters(model)
        if step % 250 == 0 or step == steps:
            with torch.no_grad():
                unseen = noise_prediction_error(average.module, scheduler, *held_out)
            elapsed_s = time.perf_counter() - started
            print(f"step {step}: error {loss:.4f}, held out {unseen:.4f}, {elapsed_s:.0f} s")
    return average.module


def save(trained: DiTTransformer2DModel, scheduler: DDIMScheduler, output: Path) -> None:
    """Write `trained` to `output` in bf16, the shared embedder once in every block."""
    # The copy shares nothing: of shared tensors, safetensors would store only the first.
    unshared = new_transformer()
    rounded = {name: tensor.bfloat16() for name, tensor in trained.state_dict().items()}
    unshared.load_state_dict(rounded, assign=True)
    unshared.save_pretrained(output / "transformer")
    scheduler.save_pretrained(output / "scheduler")
    # Not "DiTPipeline": that one wants an autoencoder, and its null label is 1000.
    index = {
        "_class_name": "DiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
    }
    (output / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


@torch.no_grad()
def sample(
    model: DiTTransformer2DModel, scheduler: DDIMScheduler, labels: Tensor, seed: int
) -> Tensor:
    """Return one image per label, [n, 1, 8, 8], by deterministic DDIM without guidance."""
    images = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    scheduler.set_timesteps(SAMPLING_STEPS)
    for timestep in scheduler.timesteps:
        noise = model(images, timestep=timestep.expand(len(labels)), class_labels=labels).sample
        images = scheduler.step(noise, timestep, images).prev_sample
    return images.clamp(-1, 1)


def evaluate(directory: Path, data: Digits, held_out: Digits, seed: int) -> tuple[float, str]:
    """Return the accuracy on samples of the saved model, and a line that tells it."""
    classifier = SVC(gamma=0.02).fit(data.images.flatten(1).numpy(), data.labels.numpy())
    real = classifier.score(held_out.images.flatten(1).numpy(), held_out.labels.numpy())
    # The bf16 weights as shipped; the arithmetic in f32.
    model = DiTTransformer2DModel.from_pretrained(
        directory / "transformer", torch_dtype=torch.float32
    )
    scheduler = DDIMScheduler.from_pretrained(directory / "scheduler")
    labels = torch.arange(NUM_SAMPLES) % NUM_CLASSES
    images = sample(model, scheduler, labels, seed)
    accuracy = float(classifier.score(images.flatten(1).numpy(), labels.numpy()))
    return accuracy, (
        f"accuracy {accuracy:.1%} on {NUM_SAMPLES} unguided samples ({SAMPLING_STEPS} DDIM steps), "
        f"{real:.1%} on held-out real digits"
    )


def parse_arguments() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=PACKAGED_MODEL, help="directory to write")
    parser.add_argument("--seed", type=int, default=0, help="of the training and the samples")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--evaluate-only", action="store_true", help="only measure OUTPUT")
    return parser.parse_args()


def main() -> int:
    """Train, save and evaluate; return 1 if too few samples are recognised."""
    arguments = parse_arguments()
    torch.set_num_threads(2)
    torch.manual_seed(arguments.seed)
    data, held_out = load_data()
    if not arguments.evaluate_only:
        scheduler = DDIMScheduler(clip_sample=False)
        trained = train(data, held_out, scheduler, arguments.steps)
        save(trained, scheduler, arguments.output)
    accuracy, result = evaluate(arguments.output, data, held_out, arguments.seed)
    print(result)
    if not arguments.evaluate_only:
        millions = sum(p.numel() for p in trained.parameters()) / 1e6
        text = README.format(
            parameters=millions, seed=arguments.seed, steps=arguments.steps, result=result
        )
        (arguments.output / "README.md").write_text(text)
    return 0 if accuracy >= REQUIRED_ACCURACY else 1


if __name__ == "__main__":
    raise SystemExit(main())
