"""The lead over HTTP: OpenAI's APIs, llama_duo's messages, and what a person wants to look at."""
