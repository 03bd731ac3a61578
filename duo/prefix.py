"""Token sequences that know the hash of each of their prefixes.

A guess names the exact prefix that it continues, by length and hash, so a late or repeated guess is harmless. The hash
is a running one: a mix of the sequence's hash and one more token. So a tree of guesses can carry a hash per node. It
protects against mistakes, not against malice. The target model verifies every guess anyway.
"""

from __future__ import annotations

from collections.abc import Iterable

EMPTY = 0x243F6A8885A308D3
"""Hash of the empty sequence."""

_MASK = (1 << 64) - 1
_BLOCK = 256


def mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every output bit depends on every input bit."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def extend_hash(prefix_hash: int, token: int) -> int:
    """Hash of a prefix and one more token. Token ids are >= 0; the result fits 64 bits."""
    return mix(prefix_hash * 3 + token + 0x9E3779B97F4A7C15)


class Prefix:
    """A growing token sequence with the hash of each of its prefixes. Appending is safe while others read."""

    __slots__ = ("_hashes", "tokens")

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self._hashes = [EMPTY]
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def hash(self) -> int:
        return self._hashes[len(self.tokens)]

    def hash_at(self, length: int) -> int:
        """Hash of the first `length` tokens, 0 <= length <= len(self)."""
        return self._hashes[length]

    def extend(self, tokens: Iterable[int]) -> None:
        running = self._hashes[-1]
        for token in tokens:
            running = extend_hash(running, token)
            # The hash first: another thread that sees the token must find its hash.
            self._hashes.append(running)
            self.tokens.append(token)


def common_length(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix."""
    end = min(len(a), len(b))
    for start in range(0, end, _BLOCK):
        stop = min(end, start + _BLOCK)
        if a[start:stop] != b[start:stop]:
            return next(i for i in range(start, stop) if a[i] != b[i])
    return end
