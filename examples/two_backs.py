"""A lead and two different backs on this machine: the same draft model on transformers and on llama.cpp.

    python examples/two_backs.py "What does shutil.copytree do?"

The backs know nothing of each other. The lead tells each its share of the work, and takes the best guesses of both.
Stop one with kill: the answer does not change.
"""

from __future__ import annotations

import subprocess
import sys
import time

import requests

PORT, BACK_PORT = 5655, 5656
LEAD = f"http://127.0.0.1:{PORT}"


def program(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", module, "--threads", "1", *arguments])


def wait_until_ready(backs: int) -> None:
    """Wait until the model is loaded and so many backs are connected."""
    for _ in range(600):
        try:
            if len(requests.get(f"{LEAD}/backs", timeout=5).json().get("data", [])) == backs:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise SystemExit("the lead or a back did not start: see above")


def main() -> None:
    question = sys.argv[1] if len(sys.argv) > 1 else "What does shutil.copytree do?"
    programs = [
        program("lead", "--port", str(PORT), "--back-port", str(BACK_PORT), "--print-mode", "none"),
        program("back", "--lead", f"127.0.0.1:{BACK_PORT}", "--name", "by-transformers", "--engine", "transformers"),
        program("back", "--lead", f"127.0.0.1:{BACK_PORT}", "--name", "by-llama.cpp", "--engine", "llamacpp"),
    ]
    try:
        wait_until_ready(backs=2)
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 200}
        answer = requests.post(f"{LEAD}/v1/chat/completions", json=body, timeout=120).json()
        print(answer["choices"][0]["message"]["content"])
        timings = answer["timings"]
        print(f"\n{timings['predicted_n']} tokens, {timings['predicted_per_second']:.0f} tokens/s")
        for back in requests.get(f"{LEAD}/backs", timeout=5).json()["data"]:
            print(f"{back['name']} ({back['model']}): {back['accepted']} of {back['drafted']} guesses accepted")
    finally:
        for each in programs:
            each.terminate()
        for each in programs:
            each.wait()


if __name__ == "__main__":
    main()
