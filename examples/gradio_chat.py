"""A chat in the browser, made with Gradio, on OpenAI's client.

    pip install '.[gradio]'                                    # in the folder of duo's sources
    python examples/gradio_chat.py [BASE_URL] [--port N]

It needs a running lead. BASE_URL is http://127.0.0.1:5555/v1 if it is left out. A lead on another machine wants a key:
put it into the variable DUO_API_KEY. Under each answer stands how fast it was, and how many of its guesses were right.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio
from openai import OpenAI, OpenAIError, Stream
from openai.types.chat import ChatCompletionChunk

DEFAULT_URL = "http://127.0.0.1:5555/v1"


def text_of(content: Any) -> str:
    """The text of a message. Gradio keeps it whole or in parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))


def figures(timings: Mapping[str, Any]) -> str:
    """A line about an answer, by the lead's own figures."""
    words = [f"{timings['predicted_per_second']:.1f} tokens/s"]
    if times := (timings.get("speedup") or {}).get("times"):
        words.insert(0, f"{times:.1f} x with backs")
    if drafted := timings.get("draft_n"):
        words.append(f"{timings['draft_n_accepted']} of {drafted} guesses accepted")
    return ", ".join(words)


class Chat:
    """Asks the first model of a lead, or of any other server with OpenAI's API."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._client = OpenAI(base_url=url, api_key=key)

    def answer(self, question: str, history: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
        """Yields the answer as far as it has come, and a line about it once it is whole."""
        messages = [{"role": said["role"], "content": text_of(said["content"])} for said in history]
        text = ""
        try:
            for chunk in self._asked([*messages, {"role": "user", "content": question}]):
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                timings = getattr(chunk, "timings", None)
                yield text, figures(timings) if timings else ""
        except OpenAIError as error:
            raise gradio.Error(f"{self.url}: {error}") from error

    def _asked(self, messages: list[Any]) -> Stream[ChatCompletionChunk]:
        model = self._client.models.list().data[0].id
        return self._client.chat.completions.create(model=model, messages=messages, stream=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat in the browser, on a running lead.")
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, metavar="BASE_URL", help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="of the page (default: %(default)s)")
    options = parser.parse_args()
    chat = Chat(options.url, os.environ.get("DUO_API_KEY", "none"))
    about = gradio.Markdown(render=False)
    with gradio.Blocks(title="duo", analytics_enabled=False) as page:
        gradio.ChatInterface(chat.answer, title="duo", additional_outputs=[about])
        about.render()  # type: ignore[no-untyped-call]
    page.launch(server_port=options.port)


if __name__ == "__main__":
    main()
