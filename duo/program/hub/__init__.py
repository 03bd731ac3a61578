"""Models by name: from the Hugging Face hub, and from Ollama's folder."""
