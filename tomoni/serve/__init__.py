"""The server: a model behind OpenAI's API, its answers kept for feedback, its version a pointer that moves."""
