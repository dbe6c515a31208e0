"""The text prompts of PaliGemma, for training, answering and export alike. No torch here."""

CAPTION_QUESTION = "Describe the image."
"""What is asked for a caption in formats that have no caption task of their own."""


def question_prefix(question: str, language: str) -> str:
    """PaliGemma's VQA prompt without its final newline, which separates it from the answer.

    A newline inside the question would become such a separator, so white space is folded. Prompt format: Beyer et al.,
    "PaliGemma: A versatile 3B VLM for transfer", 2024, arXiv 2407.07726.
    """
    return f"answer {language} {' '.join(question.split())}"


def caption_prefix(language: str) -> str:
    """PaliGemma's caption prompt without its final newline."""
    return f"caption {language}"
