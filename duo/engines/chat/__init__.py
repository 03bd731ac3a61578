"""Conversations as prompts: chat templates, and the tools in them."""
