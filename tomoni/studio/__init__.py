"""The web pages that people live in: chat, judge, teach, and see what came of it. No torch."""
