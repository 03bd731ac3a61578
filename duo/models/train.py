"""Train the pair from nothing on a CPU, in a fixed time.

The learning rate follows the used share of the time budget, not a number of steps. So training ends on time on a slow
or busy machine, and only sees less text there. Sequences are whole conversations of similar length. So there is nearly
no padding, and every conversation starts at position 0, as in use. The loss counts the answers and little else.

The target comes first. The draft costs a fraction. It learns the same text but sees little of it, so its guesses are
plausible and often wrong. With as much training it would know the answers as well as the target.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from duo.models import corpus, tokenizer

BATCH = 4096  # tokens per step
MAX_TOKENS = 768  # per sequence
QUESTION_WEIGHT = 0.1
SOURCE_SHARE = 0.05
SAVE_EVERY = 240.0  # seconds


@dataclass(frozen=True)
class Size:
    """The dimensions of one model, and the learning rates that suit it."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    matrix_rate: float  # Muon, for the matrices inside the layers
    rate: float  # AdamW, for the embedding and the norms
    max_tokens: float  # to learn from, even if time is left


TARGET = Size(16, 256, 704, 4, 2, 4e-3, 3e-3, math.inf)
DRAFT = Size(2, 128, 384, 2, 2, 4e-3, 3e-3, 1.6e6)


@dataclass(frozen=True)
class Sequence:
    """Token ids with the weight of each in the loss."""

    ids: list[int]
    weights: list[float]


def build(size: Size) -> LlamaForCausalLM:
    """A model with random weights."""
    end = tokenizer.SPECIAL.index(tokenizer.END)
    config = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=tokenizer.VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.hidden // size.heads,
        max_position_embeddings=tokenizer.CONTEXT,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.SPECIAL.index(tokenizer.END_OF_TEXT),
        initializer_range=0.02,
        # For short sequences on a CPU the fused attention's backward pass takes four times as long as plain products.
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def encode(tok: Tokenizer, messages: list[corpus.Message]) -> Sequence:
    """A conversation as the chat template writes it, weighted so that mostly the answers are learned."""
    ids: list[int] = []
    weights: list[float] = []

    def add(text: str, weight: float) -> None:
        piece = tok.encode(text, add_special_tokens=False).ids
        ids.extend(piece)
        weights.extend([weight] * len(piece))

    # Every cut falls beside a special token or after a newline before text, where the split into tokens breaks anyway.
    for message in messages:
        answer = message["role"] == "assistant"
        add(f"{tokenizer.START}{message['role']}\n", 0.0)
        add(f"{message['content']}{tokenizer.END}", 1.0 if answer else QUESTION_WEIGHT)
        add("\n", 0.0)
    return Sequence(ids[:MAX_TOKENS], weights[:MAX_TOKENS])


def sequences(tok: Tokenizer, rng: random.Random) -> Iterator[Sequence]:
    """One pass over the facts, with some library source mixed in."""
    for messages in corpus.conversations(rng):
        yield encode(tok, messages)
        if rng.random() < SOURCE_SHARE:
            lines = rng.choice(corpus.sources()).splitlines(keepends=True)
            first = rng.randrange(max(1, len(lines) - 10))
            ids = tok.encode("".join(lines[first : first + 40])).ids[:384]
            yield Sequence(ids, [1.0] * len(ids))


def batches(tok: Tokenizer, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Endless batches of sequences of similar length, with the number of the pass that they belong to."""
    pool: list[Sequence] = []
    number = 0
    while True:
        rng = random.Random(f"{seed}/{number}")
        pool = list(sequences(tok, rng))
        pool.sort(key=lambda s: len(s.ids))
        groups: list[list[Sequence]] = [[]]
        for sequence in pool:
            if groups[-1] and len(sequence.ids) * (len(groups[-1]) + 1) > BATCH:
                groups.append([])
            groups[-1].append(sequence)
        # A lone sequence would have the compiler specialise on batches of one.
        groups = [group for group in groups if len(group) > 1]
        rng.shuffle(groups)
        for group in groups:
            longest = max(len(s.ids) for s in group)
            ids = torch.zeros(len(group), longest, dtype=torch.long)
            weights = torch.zeros(len(group), longest)
            for row, sequence in enumerate(group):
                ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
                weights[row, : len(sequence.ids)] = torch.tensor(sequence.weights)
            yield ids, weights, number
        number += 1


def schedule(share: float) -> float:
    """Learning rate factor at this share of the budget: a short warm-up, a plateau, then down to nothing."""
    if share < 0.02:
        return share / 0.02
    if share < 0.4:
        return 1.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (share - 0.4) / 0.6)))


class Trainer:
    """One model, its optimizers and its place in the budget; it can be saved and continued."""

    def __init__(self, size: Size, tok: Tokenizer, directory: Path, seconds: float, seed: int, compiled: bool) -> None:
        torch.manual_seed(seed)
        self.model = build(size)
        self.tok, self.directory, self.seconds, self.seed = tok, directory, seconds, seed
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim != 2 or "embed" in n]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=size.matrix_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=size.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self.rates = (size.matrix_rate, size.rate)
        self.max_tokens = size.max_tokens
        self.compiled = compiled
        self.used = 0.0
        self.steps = 0
        self.tokens = 0
        if (directory / "trainer.pt").exists():
            self._load()

    def _load(self) -> None:
        saved: dict[str, Any] = torch.load(self.directory / "trainer.pt", weights_only=True)
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.used, self.steps, self.tokens = saved["used"], saved["steps"], saved["tokens"]
        print(f"resumed at step {self.steps}, {self.used / 60:.1f} min used", flush=True)

    def save(self, state: bool = True) -> None:
        """Write the model as it would be shipped and, beside it, what is needed to go on."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if state:
            part = self.directory / "trainer.pt.part"
            optimizers = [o.state_dict() for o in self.optimizers]
            torch.save(
                {"model": self.model.state_dict(), "optimizers": optimizers}
                | {"used": self.used, "steps": self.steps, "tokens": self.tokens},
                part,
            )
            part.replace(self.directory / "trainer.pt")
        save_model(self.model, self.tok, self.directory)
        if not state:
            (self.directory / "trainer.pt").unlink(missing_ok=True)

    def share(self) -> float:
        """How much of the budget is used up."""
        return max(self.used / self.seconds, self.tokens / self.max_tokens)

    def step(self, ids: torch.Tensor, weights: torch.Tensor) -> tuple[float, float]:
        """One optimizer step; returns the mean loss over the answers and the share of their tokens guessed right."""
        factor = schedule(self.share())
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            wanted = weights[:, 1:] > 0
            logits = self.model.lm_head(hidden[wanted])
        losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
        weight = weights[:, 1:][wanted]
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        answers = weight == 1.0
        right = logits.detach().argmax(-1) == ids[:, 1:][wanted]
        return float(losses.detach()[answers].mean()), float(right[answers].float().mean())

    def run(self) -> None:
        """Train until the budget is used up."""
        self.model.train()
        if self.compiled:
            self.model.model.compile(dynamic=True)
        saved = printed = self.used
        results: list[tuple[float, float]] = []
        source = batches(self.tok, self.seed + self.steps)
        clock = time.perf_counter()
        tokens = self.tokens
        while self.share() < 1.0:
            ids, weights, number = next(source)
            results.append(self.step(ids, weights))
            now = time.perf_counter()
            self.used += now - clock
            clock = now
            self.steps += 1
            self.tokens += ids.numel()
            if self.used - printed >= 15.0:
                loss, right = (sum(column) / len(results) for column in zip(*results, strict=True))
                print(
                    f"{self.directory.name} {self.used / 60:5.1f}/{self.seconds / 60:.1f} min  step {self.steps}  "
                    f"pass {number}  {self.tokens / 1e6:.2f} M tokens  "
                    f"{(self.tokens - tokens) / (self.used - printed):.0f} tokens/s  "
                    f"loss {loss:.3f}  right {right:.3f}",
                    flush=True,
                )
                printed, results, tokens = self.used, [], self.tokens
            if self.used - saved >= min(SAVE_EVERY, self.seconds / 8):
                self.save()
                saved = self.used
                clock = time.perf_counter()


def save_model(model: LlamaForCausalLM, tok: Tokenizer, directory: Path) -> None:
    """Write a model directory in bf16, as transformers reads it."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().to(torch.bfloat16).clone() for k, v in model.state_dict().items()}
    shipped = LlamaForCausalLM(model.config).to(torch.bfloat16)  # type: ignore[arg-type]  # their decorator hides it
    shipped.load_state_dict(tensors)
    shipped.generation_config.do_sample = False
    # Both, because llama.cpp takes both for ends of an answer.
    ends = (tokenizer.END, tokenizer.END_OF_TEXT)
    shipped.generation_config.eos_token_id = [tokenizer.SPECIAL.index(end) for end in ends]
    shipped.generation_config.pad_token_id = tokenizer.SPECIAL.index(tokenizer.END_OF_TEXT)
    shipped.save_pretrained(directory)
    tokenizer.save(tok, directory)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m duo.models.train", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for target/ and draft/")
    parser.add_argument("--minutes", type=float, default=90.0, help="budget for both models together (default 90)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("target", "draft"), help="train just this one")
    parser.add_argument("--eager", action="store_true", help="do not compile (compiling needs a C++ compiler)")
    args = parser.parse_args(arguments)
    if args.minutes <= 0:
        parser.error(f"--minutes must be more than 0, not {args.minutes}")
    saved = args.out / "target" / "tokenizer.json"
    # A vocabulary that is there already stays: the weights beside it mean nothing with another one.
    tok = Tokenizer.from_file(str(saved)) if saved.exists() else tokenizer.learn(corpus.tokenizer_text())
    print(f"{len(corpus.facts())} facts, vocabulary {tok.get_vocab_size()}", flush=True)
    for name, size, share in (("target", TARGET, 0.88), ("draft", DRAFT, 0.12)):
        directory = args.out / name
        if args.only not in (None, name):
            continue
        if (directory / "model.safetensors").exists() and not (directory / "trainer.pt").exists():
            print(f"{name}: already finished; delete {directory} to train it again", flush=True)
            continue
        trainer = Trainer(size, tok, directory, args.minutes * 60 * share, args.seed, not args.eager)
        print(f"{name}: {trainer.model.num_parameters() / 1e6:.2f} M parameters", flush=True)
        trainer.run()
        trainer.save(state=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
