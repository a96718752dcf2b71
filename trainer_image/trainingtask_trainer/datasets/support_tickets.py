"""Support tickets of an invented software company, generated: multi-label, no network, no file.

Every ticket complains about one to three topics. The topics share nouns ("the invoice page is slow" is about
performance, not billing), some complaints stay vague, and a few labels are wrong, as in real tickets: a linear model
on words learns it well, and not perfectly.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_trainer.datasets.base import RawData, Split, encode_multi_hot

TICKET_COUNT = 1500
_WRONG_LABEL_RATE = 0.06  # share of tickets with one wrong label
_VAGUE_RATE = 0.15  # share of complaints that name the thing without the topic

_T = TypeVar("_T")

_THINGS = (
    "the invoice page", "the login screen", "the dashboard", "the mobile app", "the weekly report", "the export",
    "the calendar sync", "the search box", "the settings page", "the payment form", "the team list", "the API",
)  # fmt: skip

# Complaints by topic; {thing} is any of the above, for each topic.
_COMPLAINTS: dict[str, tuple[str, ...]] = {
    "access": (
        "I cannot sign in to {thing} any more", "my password is refused at {thing}",
        "the reset link for {thing} never arrives", "two-factor codes are rejected by {thing}",
        "my colleague was locked out of {thing}", "permission denied when I open {thing}",
    ),
    "billing": (
        "we were charged twice because of {thing}", "the amount on {thing} does not match our contract",
        "please refund what {thing} cost us", "our card was declined at {thing}",
        "the tax number is missing on {thing}", "I want to cancel the plan that includes {thing}",
    ),
    "crash": (
        "{thing} closes by itself", "{thing} shows a blank screen", "an unexpected error ends {thing}",
        "{thing} freezes and has to be restarted", "I get error 500 from {thing}", "{thing} stops with a stack trace",
    ),
    "data_loss": (
        "entries vanished from {thing}", "{thing} lost what I typed yesterday", "my changes in {thing} were not saved",
        "old records are gone from {thing}", "{thing} overwrote our numbers", "half of the rows are missing in {thing}",
    ),
    "feature_request": (
        "it would be great if {thing} had filters", "could you add dark mode to {thing}",
        "we miss a shortcut in {thing}", "please let us rename columns in {thing}",
        "I wish {thing} supported templates", "are there plans to translate {thing}",
    ),
    "how_to": (
        "how do I set up {thing}", "where can I find {thing}", "is there a guide for {thing}",
        "what is the right way to share {thing}", "I do not understand what {thing} is for",
        "can somebody explain {thing} to us",
    ),
    "integration": (
        "{thing} no longer talks to our chat tool", "the webhook behind {thing} is silent",
        "{thing} does not sync with the calendar", "our script gets nothing from {thing}",
        "the connector between {thing} and the warehouse broke", "{thing} rejects our token",
    ),
    "performance": (
        "{thing} is very slow", "{thing} takes a minute to load", "we wait for ever until {thing} answers",
        "{thing} got sluggish since the update", "{thing} times out at noon", "scrolling in {thing} stutters",
    ),
}  # fmt: skip
LABELS = tuple(_COMPLAINTS)
# How often a topic is drawn; uneven, as topics are.
_WEIGHTS = (0.18, 0.2, 0.16, 0.08, 0.1, 0.12, 0.08, 0.08)
_TOPICS_PER_TICKET = (0.55, 0.35, 0.1)

_VAGUE_COMPLAINTS = (
    "something is wrong with {thing}", "{thing} does not work for us", "we have a problem with {thing}",
    "please have a look at {thing}", "{thing} is not what we expected",
)  # fmt: skip
_OPENERS = (
    "Hello,", "Hi team,", "Good morning,", "Hello support,", "Dear all,", "Hi,", "Urgent:", "Second attempt:", "",
)  # fmt: skip
_LINKS = (". Also, ", " and ", ". Besides, ", ", and on top of that ", "; moreover ")
_CLOSERS = (
    "Thanks.", "Please help.", "It started yesterday.", "We are a team of twelve.", "This blocks our release.",
    "Kind regards", "Let me know if you need more details.", "It used to work.", "",
)  # fmt: skip


class SupportTickets:
    """1,500 generated tickets with 8 topics, in one split."""

    packages: ClassVar[tuple[str, ...]] = ("iterative-stratification",)

    def load(self, spec: DatasetSpec, root: Path) -> RawData:
        """Generate the tickets; the same `spec.seed` gives the same ones everywhere."""
        del root
        draw = random.Random(spec.seed)  # noqa: S311 - not for secrets
        tickets = [_draw_ticket(draw) for _ in range(TICKET_COUNT)]
        rows = Split([text for text, _ in tickets], encode_multi_hot((topics for _, topics in tickets), len(LABELS)))
        return RawData(LABELS, rows)


def _draw_ticket(draw: random.Random) -> tuple[str, list[int]]:
    """Return a text and the indexes of its topics."""
    count = 1 + _draw_weighted_index(draw, _TOPICS_PER_TICKET)
    topics: list[int] = []
    while len(topics) < count:
        topic = _draw_weighted_index(draw, _WEIGHTS)
        if topic not in topics:
            topics.append(topic)
    body = ""
    for position, topic in enumerate(topics):
        vague = draw.random() < _VAGUE_RATE
        complaint = _draw_choice(draw, _VAGUE_COMPLAINTS if vague else _COMPLAINTS[LABELS[topic]])
        body += (_draw_choice(draw, _LINKS) if position else "") + complaint.format(thing=_draw_choice(draw, _THINGS))
    text = " ".join(part for part in (_draw_choice(draw, _OPENERS), body + ".", _draw_choice(draw, _CLOSERS)) if part)
    if draw.random() < _WRONG_LABEL_RATE:
        topics[int(draw.random() * len(topics))] = int(draw.random() * len(LABELS))
    return text, sorted(set(topics))


# Only the stream of `random.random()` is guaranteed across versions of Python, so all draws use it.
def _draw_choice(draw: random.Random, options: Sequence[_T]) -> _T:
    return options[int(draw.random() * len(options))]


def _draw_weighted_index(draw: random.Random, weights: Sequence[float]) -> int:
    """Return an index, drawn with these weights, which add up to 1."""
    point = draw.random()
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return len(weights) - 1
