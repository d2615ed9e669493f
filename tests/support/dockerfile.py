"""Dockerfiles as lists of instructions: no container engine runs where the tests run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """One instruction; `form` is ``exec`` where its arguments are a JSON list."""

    word: str
    text: str

    @property
    def arguments(self):
        """Return the list of an exec form, or None for a shell form."""
        found = re.search(r"(?:^|\s)(\[.*\])$", self.text)
        return None if found is None else json.loads(found[1])


def stages(text):
    """Return the stages of a Dockerfile, each a list of instructions that begins with FROM.

    What ARG before the first FROM says is filled into the others.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found, arguments = [], {}
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        one = Instruction(word.upper(), rest.strip())
        if one.word == "ARG" and not found:
            name, _, value = one.text.partition("=")
            arguments[name] = value
            continue
        if one.word == "FROM":
            for name, value in arguments.items():
                one = Instruction("FROM", one.text.replace(f"${{{name}}}", value))
            found.append([])
        found[-1].append(one)
    return found


def only(stage, word):
    """Return the one instruction of a kind in a stage."""
    [one] = [each for each in stage if each.word == word]
    return one
