"""OpenAI's own client against a lead. It knows nothing of guesses, its answers only come sooner.

    python examples/openai_client.py [BASE_URL]

Needs the `openai` package and a running lead. One answer comes whole and one as a stream. They have the same seed, so
they are equal.
"""

from __future__ import annotations

import sys

from openai import OpenAI, OpenAIError
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionMessageParam

DEFAULT_URL = "http://127.0.0.1:5555/v1"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What does shutil.copytree do?"}]


def report(usage: CompletionUsage | None) -> str:
    """A line of figures. OpenAI's fields for predicted outputs count the guesses."""
    if usage is None:
        return "(no usage)"
    details = usage.completion_tokens_details
    accepted = (details and details.accepted_prediction_tokens) or 0
    rejected = (details and details.rejected_prediction_tokens) or 0
    return (
        f"({usage.prompt_tokens} prompt tokens, {usage.completion_tokens} completion tokens, "
        f"{accepted} guesses accepted, {rejected} rejected)"
    )


def whole(client: OpenAI, model: str) -> None:
    completion = client.chat.completions.create(model=model, messages=QUESTION, temperature=0.8, seed=7, max_tokens=120)
    print(completion.choices[0].message.content)
    print(report(completion.usage))


def streamed(client: OpenAI, model: str) -> None:
    chunks = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        temperature=0.8,
        seed=7,
        max_tokens=120,
        stream=True,
        stream_options={"include_usage": True},
    )
    usage = None
    for chunk in chunks:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        usage = chunk.usage or usage
    print()
    print(report(usage))


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_URL
    # The client wants a key, though the lead does not.
    client = OpenAI(base_url=url, api_key="none")
    try:
        model = client.models.list().data[0].id
        print(f"{model} at {url}, whole:")
        whole(client, model)
        print("\nand as a stream:")
        streamed(client, model)
    except OpenAIError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
