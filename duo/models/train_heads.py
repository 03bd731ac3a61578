"""Train heads for the shipped target: EAGLE-3, Medusa and an MLP speculator, each in minutes on a CPU.

The text is that from which the target learned. A head learns what the target thinks at each place of it. Afterwards
each head guesses along the target's own greedy answers. The figure is the mean number of tokens of a forward pass that
verifies one line of four guesses.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from duo import models
from duo.engines import EngineOptions
from duo.engines.base import ROOT, Row
from duo.engines.heads import Head, Tip
from duo.engines.transformers.engine import TransformersEngine
from duo.engines.transformers.heads.load import load
from duo.models import corpus
from duo.models.head_networks import Eagle3Network, MedusaNetwork, MLPNetwork, Network, Text
from duo.models.train import batches, schedule

KINDS: dict[str, Callable[[LlamaForCausalLM, Tensor], Network]] = {
    "eagle3": Eagle3Network,
    "medusa": lambda target, ids: MedusaNetwork(target),
    "mlp": lambda target, ids: MLPNetwork(target),
}
RATES = {"eagle3": 4e-3, "medusa": 2e-2, "mlp": 6e-3}
MAX_TOKENS = 1024
"""Tokens of a step."""
HEAD_VOCABULARY = 2048
"""Tokens that EAGLE-3 can guess: the most frequent ones."""
FIRST_ALONE = 0.5
"""Share of the time in which only the first token is learned. It is the base of the others, and takes less time."""
LINE = 4
"""Guesses of a line, when heads are compared."""
SAID_EVERY = 15.0  # seconds


def frequent(tok: Tokenizer, count: int) -> Tensor:
    """The most frequent tokens of the text, by rising number."""
    counts = torch.zeros(tok.get_vocab_size(), dtype=torch.long)
    source = batches(tok, 0)
    for _ in range(100):
        ids, weights, _ = next(source)
        counts += torch.bincount(ids[weights > 0.5], minlength=len(counts))
    return counts.argsort(descending=True, stable=True)[:count].sort().values


def steps(tok: Tokenizer, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless small batches: ids and weights [texts, length]."""
    for ids, weights, _ in batches(tok, seed):
        most = max(1, MAX_TOKENS // ids.shape[1])
        yield from zip(torch.split(ids, most), torch.split(weights, most), strict=True)


@torch.no_grad()
def read(target: LlamaForCausalLM, ids: Tensor, weights: Tensor, layers: Sequence[int]) -> Text:
    """What the target thinks of these texts."""
    output = target.model(input_ids=ids, use_cache=False, output_hidden_states=bool(layers))
    final: Tensor = output.last_hidden_state
    features = torch.cat([output.hidden_states[number] for number in layers], -1) if layers else final
    return Text(ids, weights, final, features, target.lm_head(final))


def train(network: Network, target: LlamaForCausalLM, tok: Tokenizer, name: str, seconds: float, seed: int) -> None:
    """Train until the time is used up."""
    named = [(path, it) for path, it in network.named_parameters() if it.requires_grad]
    wide = [it for path, it in named if it.ndim != 2 or min(it.shape) < max(it.shape) / 6]
    inner = [it for path, it in named if not any(it is other for other in wide)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(wide, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
    optimizers.append(torch.optim.Muon(inner, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    source = steps(tok, seed)
    begun = said = time.perf_counter()
    recent = list[list[float]]()
    while (share := (time.perf_counter() - begun) / seconds) < 1.0:
        for optimizer in optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = RATES[name] * schedule(share)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ahead = network.ahead if share > FIRST_ALONE or isinstance(network, MedusaNetwork) else 1
            losses = network.losses(read(target, *next(source), network.layers), ahead)
        # A later guess counts only if those before it are right.
        torch.autograd.backward(torch.stack([one * 0.8**i for i, one in enumerate(losses)]).sum())
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        recent.append([float(one.detach()) for one in losses])
        if (now := time.perf_counter()) - said >= SAID_EVERY:
            means = [sum(column) / len(column) for column in zip(*recent, strict=False)]
            print(f"{name} {(now - begun) / 60:4.1f}/{seconds / 60:.1f} min  {len(recent)} steps  loss "
                  + " ".join(f"{mean:.3f}" for mean in means), flush=True)  # fmt: skip
            said, recent = now, []


def save(network: Network, folder: Path) -> None:
    """Write the head in its public format."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(network.config, indent=2) + "\n", encoding="utf-8")
    name = "medusa_lm_head.safetensors" if isinstance(network, MedusaNetwork) else "model.safetensors"
    save_file(network.tensors(), folder / name)


def tokens_per_pass(engine: TransformersEngine, head: Head, prompts: Sequence[Sequence[int]], count: int = 64) -> float:
    """Tokens that a forward pass brings where the head's likeliest line is verified, in greedy answers."""
    brought = passes = 0
    for prompt in prompts:
        engine.truncate(0, 0)
        engine.extend(0, prompt[:-1])
        text, end = list(prompt), len(prompt) + count
        while len(text) < end and not (len(text) > len(prompt) and text[-1] in engine.vocabulary.eos):
            line = list[int]()
            logits = head.begin([Tip(0, text)])
            while 0 in logits:
                line.append(int(logits[0].argmax()))
                logits = head.step({0: line[-1]}) if len(line) < min(LINE, head.depth) else {}
            rows = [Row(i, 0, token, i - 1 if i else ROOT) for i, token in enumerate([text[-1], *line])]
            picks = [int(row.argmax()) for row in engine.forward(rows)]
            right = next((i for i, token in enumerate(line) if picks[i] != token), len(line))
            engine.commit(0, range(right + 1))
            text += picks[: right + 1]
            brought, passes = brought + right + 1, passes + 1
    return brought / max(1, passes)


def judge(target: Path, folders: Sequence[Path], questions: int) -> None:
    """Print what each head brings."""
    engine = TransformersEngine(str(target), EngineOptions(context=1024), lambda share: None)
    asked = corpus.questions(questions, seed=1)
    prompts = [engine.vocabulary.chat([{"role": "user", "content": question.text}]) for question in asked]
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        head = load(engine, str(folder))
        print(f"{folder.name}: {tokens_per_pass(engine, head, prompts):.2f} tokens per pass, {size / 1e6:.2f} MB",
              flush=True)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m duo.models.train_heads", description=__doc__.split("\n")[0])
    parser.add_argument("--target", type=Path, default=models.TARGET, help="the target (default: the shipped one)")
    parser.add_argument("--out", type=Path, required=True, help="folder for eagle3/, medusa/ and mlp/")
    parser.add_argument("--minutes", type=float, default=5.0, help="budget for each head (default 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(KINDS), help="train just this one")
    parser.add_argument("--questions", type=int, default=20, help="how many are asked to compare heads; 0: none")
    args = parser.parse_args(arguments)
    if args.minutes <= 0:
        parser.error(f"--minutes must be more than 0, not {args.minutes}")
    tok = Tokenizer.from_file(str(args.target / "tokenizer.json"))
    loader: Any = LlamaForCausalLM
    target: LlamaForCausalLM = loader.from_pretrained(args.target, dtype=torch.float32, attn_implementation="eager")
    target.requires_grad_(False).eval()  # type: ignore[no-untyped-call]
    ids, folders = frequent(tok, HEAD_VOCABULARY), list[Path]()
    for name, make in KINDS.items():
        if args.only not in (None, name):
            continue
        torch.manual_seed(args.seed)
        network = make(target, ids)
        print(f"{name}: {sum(it.numel() for it in network.parameters()) / 1e6:.2f} M parameters", flush=True)
        train(network, target, tok, name, args.minutes * 60, args.seed)
        folders.append(args.out / name)
        save(network, folders[-1])
    if args.questions:
        judge(args.target, folders, args.questions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
