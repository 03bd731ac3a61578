"""Heads as networks to train. The names of their tensors are those of the public formats.

Each network says what its guesses are worth: `losses` has one loss for each token ahead. A guess is compared with what
the target thinks there, and not with the text: the target's own pick is what a guess must be.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from duo.engines.transformers.heads.mlp import EPSILON


class Text(NamedTuple):
    """A batch of texts, and what the target thinks.

    ids [texts, length]. weights [texts, length]: how much each token counts. final [texts, length, hidden]: states
    after the last norm. features [texts, length, width]: inputs of the watched layers. logits [texts, length, tokens].
    """

    ids: Tensor
    weights: Tensor
    final: Tensor
    features: Tensor
    logits: Tensor


class Network(nn.Module):
    """A head. ahead: tokens that it learns to guess."""

    ahead: int

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        """As config.json."""
        self.layers: list[int] = []
        """Whose inputs are the features."""

    @abstractmethod
    def losses(self, text: Text, ahead: int) -> list[Tensor]:
        """The mean loss of each of the first tokens ahead. The first guess at position p is the token at p + 2."""

    def tensors(self) -> dict[str, Tensor]:
        """What the file holds."""
        return {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in self.state_dict().items()}


def loss(logits: Tensor, text: Text, ahead: int) -> Tensor:
    """Cross entropy with the target's own distribution.

    logits [texts, length, vocabulary]: at p those of the token at p + 2 + ahead. The last places have no such token.
    """
    length = text.ids.shape[1] - 2 - ahead
    weights = text.weights[:, 2 + ahead :].reshape(-1)
    counted = weights > 0
    guessed = logits[:, :length].reshape(-1, logits.shape[-1])[counted]
    wanted = text.logits[:, 1 + ahead : -1].reshape(-1, logits.shape[-1])[counted].float().softmax(-1)
    losses = nn.functional.cross_entropy(guessed.float(), wanted, reduction="none")
    return (losses * weights[counted]).sum() / weights[counted].sum().clamp(min=1e-6)


class MedusaNetwork(Network):
    """Version 2: one block for each head, before the target's own projection."""

    def __init__(self, target: LlamaForCausalLM, ahead: int = 4) -> None:
        super().__init__()
        self.ahead = ahead
        hidden = int(target.config.hidden_size)
        self.config = {"medusa_num_heads": ahead, "medusa_num_layers": 1, "hidden_size": hidden}
        self._project = [target.lm_head.weight.detach()]  # in a list, so that it is no tensor of the head
        for i in range(ahead):
            block = nn.Linear(hidden, hidden)
            nn.init.zeros_(block.weight)
            nn.init.zeros_(block.bias)
            self.add_module(str(i), nn.ModuleList([nn.ModuleDict({"linear": block})]))

    def losses(self, text: Text, ahead: int) -> list[Tensor]:
        done = []
        for i in range(ahead):
            block: Any = self.get_submodule(f"{i}.0.linear")
            states = text.final + nn.functional.silu(block(text.final))
            done.append(loss(states @ self._project[0].T, text, i))
        return done


class MLPNetwork(Network):
    """All steps share their tensors, but for the first projection."""

    def __init__(self, target: LlamaForCausalLM, ahead: int = 4, inner: int = 192) -> None:
        super().__init__()
        hidden, size = int(target.config.hidden_size), int(target.config.vocab_size)
        self.ahead = ahead
        self.inner = inner = min(inner, hidden)
        self.config = {
            "architectures": ["MLPSpeculatorPreTrainedModel"], "model_type": "mlp_speculator", "n_predict": ahead,
            "emb_dim": hidden, "inner_dim": inner, "vocab_size": size, "tie_weights": True, "scale_input": True,
        }  # fmt: skip
        self.speculator = nn.ModuleDict({
            "emb": nn.ModuleList([nn.Embedding(size, inner)]),
            "proj": nn.ModuleList([nn.Linear(hidden, inner, bias=False), nn.Linear(inner, inner, bias=False)]),
            "head": nn.ModuleList([nn.Linear(inner, size, bias=False)]),
            "ln": nn.ModuleList([nn.LayerNorm(inner)]),
        })  # fmt: skip
        with torch.no_grad():
            # The first directions of the target's embedding are a good beginning.
            _, _, directions = torch.linalg.svd(target.lm_head.weight.detach().float(), full_matrices=False)
            small = target.lm_head.weight.detach().float() @ directions[:inner].T
            self._part("emb", 0).weight.copy_(small / small.std())
            self._part("head", 0).weight.copy_(small)
            self._part("proj", 0).weight.copy_(directions[:inner])

    def _part(self, name: str, number: int) -> Any:
        parts: Any = self.speculator[name]
        return parts[number]

    def losses(self, text: Text, ahead: int) -> list[Tensor]:
        weight = 0.5 ** (0.5 / self.ahead)
        of_embedding = math.sqrt((1 - weight**2) * self.inner / 2)
        state = _normalised(text.final) / math.sqrt(2)
        done = []
        norm = self._part("ln", 0)
        for i in range(ahead):
            tokens = nn.functional.pad(text.ids[:, 1 + i :], (0, 1 + i))
            state = self._part("proj", min(i, 1))(state) * weight + self._part("emb", 0)(tokens) * of_embedding
            state = nn.functional.gelu(_normalised(state) * norm.weight + norm.bias)
            done.append(loss(self._part("head", 0)(state), text, i))
        return done


def _normalised(state: Tensor) -> Tensor:
    return state * torch.rsqrt(state.pow(2).mean(-1, keepdim=True) + EPSILON)


class Eagle3Network(Network):
    """One layer, which begins as the target's last one. It is trained on its own states, as it will be used.

    ids: the tokens that it guesses, the target's by rising number.
    """

    def __init__(self, target: LlamaForCausalLM, ids: Tensor, ahead: int = 4) -> None:
        super().__init__()
        self.ahead = ahead
        config: Any = target.config
        hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
        self.heads, self.key_heads, self.dim = (
            int(config.num_attention_heads), int(config.num_key_value_heads), int(config.head_dim)
        )  # fmt: skip
        self.layers = [2, layers // 2, layers - 1]
        self.config = {
            "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": len(ids), "hidden_size": hidden,
            "num_hidden_layers": 1, "num_attention_heads": self.heads, "num_key_value_heads": self.key_heads,
            "head_dim": self.dim, "intermediate_size": int(config.intermediate_size), "hidden_act": "silu",
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": int(config.vocab_size),
            "max_position_embeddings": int(config.max_position_embeddings),
            "eagle_config": {"eagle_aux_hidden_state_layer_ids": self.layers, "use_aux_hidden_state": True},
        }  # fmt: skip
        self._ids = [ids]
        self._base = [target.model]
        last: Any = target.model.layers[-1]
        wide = {"q_proj": self.heads, "k_proj": self.key_heads, "v_proj": self.key_heads}
        attention = {name: nn.Linear(2 * hidden, count * self.dim, bias=False) for name, count in wide.items()}
        attention["o_proj"] = nn.Linear(self.heads * self.dim, hidden, bias=False)
        self.midlayer = nn.ModuleDict({
            "self_attn": nn.ModuleDict(attention),
            "mlp": nn.ModuleDict({
                "gate_proj": nn.Linear(hidden, int(config.intermediate_size), bias=False),
                "up_proj": nn.Linear(hidden, int(config.intermediate_size), bias=False),
                "down_proj": nn.Linear(int(config.intermediate_size), hidden, bias=False),
            }),
            **{n: nn.RMSNorm(hidden, 1e-5) for n in ("input_layernorm", "hidden_norm", "post_attention_layernorm")},
        })  # fmt: skip
        self.fc = nn.Linear(3 * hidden, hidden, bias=False)
        self.norm = nn.RMSNorm(hidden, 1e-5)
        self.lm_head = nn.Linear(hidden, len(ids), bias=False)
        with torch.no_grad():
            self.fc.weight.zero_()
            self.fc.weight[:, 2 * hidden :] = torch.eye(hidden)
            for name in wide:
                self._part(f"self_attn.{name}").weight[:, :hidden] = 0.0
                self._part(f"self_attn.{name}").weight[:, hidden:] = getattr(last.self_attn, name).weight
            self._part("self_attn.o_proj").weight.copy_(last.self_attn.o_proj.weight)
            for name in ("gate_proj", "up_proj", "down_proj"):
                self._part(f"mlp.{name}").weight.copy_(getattr(last.mlp, name).weight)
            self._part("hidden_norm").weight.copy_(last.input_layernorm.weight)
            self._part("post_attention_layernorm").weight.copy_(last.post_attention_layernorm.weight)
            self.norm.weight.copy_(target.model.norm.weight)
            self.lm_head.weight.copy_(target.lm_head.weight[ids])

    def _part(self, path: str) -> Any:
        return self.midlayer.get_submodule(path)

    def losses(self, text: Text, ahead: int) -> list[Tensor]:
        base: Any = self._base[0]
        length = text.ids.shape[1]
        positions = torch.arange(length)[None]
        cos, sin = (it.float() for it in base.rotary_emb(text.final, positions))
        mask = torch.ones(length, length, dtype=torch.bool)
        features = self.fc(text.features)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        done = []
        narrowed = text._replace(logits=text.logits[..., self._ids[0]])
        for i in range(ahead):
            # Row p stands for the token at p + 1. Its own guesses are i tokens older than the target's states.
            embedded = base.embed_tokens(nn.functional.pad(text.ids[:, 1:], (0, 1))).detach()
            normed = self._part("hidden_norm")(features)
            given = torch.cat((self._part("input_layernorm")(embedded), normed), -1)
            query, key, value = (
                self._part(f"self_attn.{n}_proj")(given).unflatten(-1, (-1, self.dim)).transpose(1, 2) for n in "qkv"
            )
            query, key = (it * cos[:, None] + _turned(it) * sin[:, None] for it in (query, key))
            groups = self.heads // self.key_heads
            keys.append(key.repeat_interleave(groups, 1))
            values.append(value.repeat_interleave(groups, 1))
            scores = (query @ keys[0].transpose(-1, -2)).masked_fill(~mask.tril(-i), -1e9)
            # The target's states end i rows before; each row between has the head's own state of its step.
            near = [(query * keys[j].roll(i - j, 2)).sum(-1, keepdim=True) for j in range(1, i + 1)]
            shares = (torch.cat((scores, *near), -1) / math.sqrt(self.dim)).softmax(-1)
            seen = shares[..., :length] @ values[0]
            for j in range(1, i + 1):
                seen = seen + shares[..., length + j - 1 : length + j] * values[j].roll(i - j, 2)
            states = features + self._part("self_attn.o_proj")(seen.transpose(1, 2).flatten(2))
            normed = self._part("post_attention_layernorm")(states)
            up = nn.functional.silu(self._part("mlp.gate_proj")(normed)) * self._part("mlp.up_proj")(normed)
            states = states + self._part("mlp.down_proj")(up)
            # The first i rows saw no state of the target.
            shown = narrowed._replace(weights=text.weights.clone())
            shown.weights[:, : 2 + i] = 0.0
            done.append(loss(self.lm_head(self.norm(states)), shown, 0))
            features = states.roll(1, 1)
        return done

    def tensors(self) -> dict[str, Tensor]:
        ids = self._ids[0]
        return {**super().tensors(), "d2t": ids - torch.arange(len(ids))}


def _turned(states: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    return torch.cat((-states[..., half:], states[..., :half]), -1)
