"""The words of the pictures in docs/: of the page, of chat.py and of the console."""

from __future__ import annotations

import json

from lead.plan.speedup import Benefit

MODEL, BACK, DRAFT = "target-13m", "attic", "draft-1m"
COPY = ("How do I copy a folder?", "Use `copytree(src, dst)` of shutil.")
DIFFERENCE = "What is the difference between sort and sorted?"
THOUGHTS = "They differ in place, type and result. A table says it best."
TABLE = """Both sort with the same algorithm. They differ in what they take and what they give:

| call | takes | gives | keeps the input |
|---|---|---|:-:|
| `sorted(data)` | any iterable | a **new** list | yes |
| `data.sort()` | a list | `None` | no |
"""
CODE = """
```python
data = [3, 1, 2]
print(sorted(data), data)   # [1, 2, 3] [3, 1, 2]
data.sort(key=lambda n: -n)
```
"""
HOW_LONG = "And how long does sorted take for a million numbers?"
TOOL = "timeit"
ARGUMENTS = json.dumps({"statement": "sorted(data)", "setup": "data = list(range(10**6))", "number": 10})
TIMES, ERROR = 2.1, 0.08
RESTING = Benefit(times=18.9 / 19.6, error=0.02, with_backs=18.9, alone=19.6, state="resting", trial_in_tokens=180)


def guessed(text: str) -> list[tuple[str, str]]:
    """The text in words, of which the back had guessed many."""
    words = text.split(" ")
    return [(word + " " * (i < len(words) - 1), BACK if i % 5 not in (0, 3) else "") for i, word in enumerate(words)]
