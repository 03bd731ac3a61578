"""Conversations: what a request means in every API, and what the text of an answer holds."""
