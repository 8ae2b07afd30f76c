"""Train the masked-diffusion language model that the tests calibrate and quantize.

A 3.2 M parameter bidirectional Qwen2 in Dream's layout (config.json, tokenizer, safetensors in
bf16) on the language reference that ships with Python (`pydoc_data.topics`). Its logits at position
i-1 predict token i, as Dream's do. How well the saved files predict masked tokens of held-out text
is printed and written to the model's README. Nothing is downloaded. The bytes depend on the
versions of Python (its text), torch and the CPU.

Needs `pip install thermoq[torch]`; takes about 10 minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import textwrap
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from thermoq.calibration.language_configs import DreamConfig
from thermoq.calibration.language_models import LanguageModel, load_language_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM

TEST_MODEL = Path(__file__).parents[1] / "tests" / "data" / "masked-lm"
END, MASK = "<|endoftext|>", "<|mask|>"
VOCABULARY = 2048
LENGTH = 128
BATCH_SIZE = 16
CAUSAL_SHARE = 0.3  # of the steps
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 100

# The keys of Dream-7B's config.json and its proportions, small. The special tokens come last.
CONFIG: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "bos_token_id": VOCABULARY - 2,
    "eos_token_id": VOCABULARY - 2,
    "hidden_act": "silu",
    "hidden_size": 192,
    "intermediate_size": 512,
    "mask_token_id": VOCABULARY - 1,
    "max_position_embeddings": 512,
    "model_type": "Dream",
    "num_attention_heads": 6,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pad_token_id": VOCABULARY - 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}

README = """# A masked-diffusion language model for tests

A bidirectional Qwen2 in the layout of Dream-7B (3.2 M parameters, bf16; a byte-level BPE of
2048 tokens) whose logits at position i-1 predict token i.

Data: the language reference in `pydoc_data.topics` of Python {python}, (c) Python Software
Foundation, Python Software Foundation License Version 2. The model saw about 90 % of it.

Made by `python scripts/train_language_model.py --seed {seed} --steps {steps}`, which printed:

{result}
"""


def load_text() -> tuple[str, str]:
    """Return the text to fit on, and about a tenth of it that is held out.

    Topics repeat one another's sections, so paragraphs come once. Some eight in a row are held out
    together, from one whose hash says so: the same in every version of Python that has it.
    """
    parts: tuple[list[str], list[str]] = ([], [])
    seen: set[str] = set()
    for name in sorted(topics):
        held_out = False
        for paragraph in topics[name].split("\n\n"):
            if paragraph in seen or not paragraph.strip():
                continue
            seen.add(paragraph)
            number = int.from_bytes(hashlib.sha256(paragraph.encode()).digest()[:4], "little")
            if number % 8 == 0:
                held_out = number // 8 % 10 == 0
            parts[held_out].append(paragraph)
        parts[0].append(END)
    fitted, unseen = ("\n\n".join(part) for part in parts)
    return fitted, unseen


def train_tokenizer(text: str) -> Tokenizer:
    """Return a byte-level BPE fitted to `text`, with the two special tokens at its end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split(END), trainer)
    tokenizer.add_special_tokens([END, MASK])
    return tokenizer


def new_model() -> Qwen2ForCausalLM:
    """Return an untrained model."""
    settings = DreamConfig.model_validate(CONFIG).for_transformers()
    return Qwen2ForCausalLM(Qwen2Config(**settings))


def masked_loss(model: Qwen2ForCausalLM, tokens: Tensor) -> Tensor:
    """Return the negative evidence bound per token: cross-entropy on masked tokens over r.

    Nie et al. 2025 (LLaDA), equation 3. The ratios r are spread evenly over the batch, which
    steadies the sum. Nothing predicts the first token, so it is masked but not counted.
    """
    n, length = tokens.shape
    ratios = ((torch.arange(n) + torch.rand(1)) / n).clamp(min=1 / length)
    masked = torch.rand(n, length) < ratios[:, None]
    everything = torch.zeros(n, 1, length, length)  # added to the scores: all attend to all
    noised = tokens.masked_fill(masked, CONFIG["mask_token_id"])
    hidden = model.model(noised, attention_mask=everything)[0]
    counted = masked[:, 1:]
    losses = functional.cross_entropy(
        model.lm_head(hidden[:, :-1][counted]), tokens[:, 1:][counted], reduction="none"
    )
    weights = (1 / ratios)[:, None].expand(n, length - 1)[counted]
    return (losses * weights).sum() / counted.numel()


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak rate: linear warm-up, then half a cosine to 0."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / steps)) / 2


def train(tokens: Tensor, model: Qwen2ForCausalLM, steps: int) -> None:
    """Fit `model` to random windows of `tokens`.

    First as a causal model, as Dream began as one (Ye et al. 2025): from random weights, masked
    diffusion hardly gets beyond the tokens' frequencies in this many steps.
    """
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: learning_rate_factor(s, steps))
    started, recent = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        starts = torch.randint(len(tokens) - LENGTH, (BATCH_SIZE, 1))
        window = tokens[starts + torch.arange(LENGTH)]
        if step <= steps * CAUSAL_SHARE:
            logits = model(window[:, :-1]).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        else:
            loss = masked_loss(model, window)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        recent += float(loss.detach())
        if step % 50 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step}: loss {recent / 50:.3f}, {seconds:.0f} s", flush=True)
            recent = 0.0


def save(model: Qwen2ForCausalLM, tokenizer: Tokenizer, output: Path) -> None:
    """Write model and tokenizer to `output` in Dream's layout."""
    output.mkdir(parents=True, exist_ok=True)
    rounded = {name: tensor.bfloat16() for name, tensor in sorted(model.state_dict().items())}
    (output / "model.safetensors").write_bytes(safetensors_bytes(rounded, {"format": "pt"}))
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)
    of_tokenizer = {
        "eos_token": END,
        "mask_token": MASK,
        "model_max_length": CONFIG["max_position_embeddings"],
        "pad_token": END,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, value in {"config.json": CONFIG, "tokenizer_config.json": of_tokenizer}.items():
        (output / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def evaluate(model: LanguageModel, tokens: Tensor, seed: int) -> str:
    """Return a line per mask ratio: cross-entropy in nats and accuracy on masked tokens."""
    windows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    lines = []
    for ratio in (0.15, 0.5, 0.85):
        masked = torch.rand(windows.shape, generator=torch.Generator().manual_seed(seed)) < ratio
        masked[:, 0] = False  # nothing predicts it
        logits = model.logits(windows.masked_fill(masked, model.mask_token_id))[masked]
        loss = functional.cross_entropy(logits.float(), windows[masked])
        right = (logits.argmax(-1) == windows[masked]).float().mean()
        lines.append(f"mask ratio {ratio}: cross-entropy {loss:.3f}, top-1 {right:.1%}")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=TEST_MODEL, help="directory to write")
    parser.add_argument("--seed", type=int, default=0, help="of the training and the masks")
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps")
    parser.add_argument("--evaluate-only", action="store_true", help="only measure OUTPUT")
    return parser.parse_args()


def main() -> int:
    """Train, save and evaluate."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # more would change the bytes
    torch.manual_seed(arguments.seed)
    text, held_out = load_text()
    if not arguments.evaluate_only:
        tokenizer, model = train_tokenizer(text), new_model()
        tokens = torch.tensor(tokenizer.encode(text).ids)
        train(tokens, model, arguments.steps)
        save(model, tokenizer, arguments.output)
    saved = load_language_model(arguments.output)
    result = evaluate(saved, torch.tensor(saved.encode(held_out)), arguments.seed)
    print(result)
    if not arguments.evaluate_only:
        details = {"python": platform.python_version(), "result": textwrap.indent(result, "    ")}
        readme = README.format(seed=arguments.seed, steps=arguments.steps, **details)
        (arguments.output / "README.md").write_text(readme)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
